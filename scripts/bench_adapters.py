"""What many endpoints on one base model hold in a replica of the shared pool, as adapters and merged.

    python -m scripts.bench_adapters recipes/quickstart.yaml
    python -m scripts.bench_adapters recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm

Endpoints are copies of one model with adapters of the recipe's `model.lora` (its defaults where it has none), exported
with int8 where that keeps the accuracy, once with the adapters merged and once beside the base model, which one process
then holds once. Adapters are not trained: neither memory nor time depends on their values. A text is one of the
validation split, read alone. Needs no Ray.
"""

import os
import shutil
import tempfile
from pathlib import Path

import click
import torch

from common.recipe import Lora
from common.recipe_file import load_recipe
from common.tokenised import local_folder, read_split
from scripts.benchmark import Figure, run
from scripts.contest import Contest, contest
from scripts.display import say, step
from scripts.held_models import Held, held_by
from tune.adapters import add_adapters, save_adapters
from tune.export import ExportReport, export
from tune.pretrained import load_base, plain_model, split_model

NUM_TEXTS = 200


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--endpoints", default=20, show_default=True, help="So many on one base model.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(recipe: str, overrides: tuple[str, ...], endpoints: int, as_json: bool) -> None:
    """Exports a model both ways and measures a process that holds many copies of it."""

    def measure() -> list[Figure]:
        with (
            contest(load_recipe(recipe, overrides), None, torch.get_num_threads()) as both,
            tempfile.TemporaryDirectory(prefix="tuneserve-bench-") as folder,
        ):
            return _measure(both, endpoints, Path(folder))

    run(measure, as_json=as_json)


def _measure(both: Contest, num_endpoints: int, work: Path) -> list[Figure]:
    lora = both.recipe.model.lora or Lora()
    step(f"{num_endpoints} endpoints on {both.recipe.model.base}, adapters of rank {lora.r}")
    checkpoint = _checkpoint(both, lora, work / "checkpoint")
    texts = read_split(both.prepared, "validation")["text"].to_pylist()[:NUM_TEXTS]
    held: list[Held] = []
    for kind, in_parts in (("adapters", True), ("merged", False)):
        report = _export(both, checkpoint, work / kind, in_parts=in_parts)
        copies = _copies(work / kind / "onnx", work / kind / "copies", num_endpoints)
        one, many = held_by(copies[:1], texts), held_by(copies, texts)
        held.append(many)
        say(
            f"  {kind}: {report.precision}, {many.mb:,.0f} MB for {num_endpoints}, {one.mb:,.0f} MB for one; "
            f"{many.load_s * 1e3:.0f} ms to load one, {many.text_ms:.2f} ms of CPU a text"
        )
    adapters, merged = held
    return [
        Figure("adapter_endpoints_mb", adapters.mb, "MB", merged.mb, more_is_better=False),
        Figure("adapter_load_ms", adapters.load_s * 1e3, "ms", merged.load_s * 1e3, more_is_better=False),
        Figure("adapter_text_ms", adapters.text_ms, "ms", merged.text_ms, more_is_better=False),
    ]


def _checkpoint(both: Contest, lora: Lora, folder: Path) -> Path:
    model = add_adapters(load_base(both.prepared, frozen=True), lora)
    save_adapters(model, folder)
    shutil.copytree(local_folder(both.prepared) / "tokenizer", folder, dirs_exist_ok=True)
    return folder


def _export(both: Contest, checkpoint: Path, folder: Path, *, in_parts: bool) -> ExportReport:
    prepared = both.prepared
    rows = read_split(prepared, "validation")
    return export(
        plain_model(checkpoint, prepared, folder / "merged"),
        folder / "onnx",
        max_length=prepared.max_length,
        texts=rows["text"].to_pylist(),
        labels=[prepared.labels[index] for index in rows["label"].to_pylist()],
        split=split_model(checkpoint, prepared) if in_parts else None,
    )


def _copies(source: Path, folder: Path, number: int) -> list[Path]:
    """Folders with the same files, as versions of other endpoints have them."""
    copies = [folder / str(index) for index in range(number)]
    for copy in copies:
        shutil.copytree(source, copy, copy_function=os.link)
    return copies


if __name__ == "__main__":
    main()
