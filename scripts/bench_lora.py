"""What low-rank adapters save and what they cost, beside training the whole model.

    python -m scripts.bench_lora recipes/quickstart.yaml
    python -m scripts.bench_lora recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm train.learning_rate=1e-4 --rows 2000

Both train by the recipe's settings for the same epochs from the same weights on the same rows, in turn, once a seed;
adapters of the recipe's `model.lora` (its defaults where it has none) with the learning rate times `--faster`. Rates
count training alone, accuracy is that of the validation split after the last epoch, and a checkpoint is what a finished
trial keeps. Needs no Ray.
"""

from statistics import fmean

import click
import torch

from common.recipe import Lora
from common.recipe_file import load_recipe
from scripts.benchmark import Figure, run
from scripts.contest import Contest, Outcome, contest, ours
from scripts.display import say, step
from tune.adapters import num_trained

MB = 1e6


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--seeds", default=2, show_default=True, help="Trainings of each kind.")
@click.option("--rows", type=int, help="Training rows; all by default.")
@click.option("--faster", default=10.0, show_default=True, help="The adapters' learning rate over the recipe's.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="CPU threads of either.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(
    recipe: str, overrides: tuple[str, ...], seeds: int, rows: int | None, faster: float, threads: int, as_json: bool
) -> None:
    """Trains both in turn, once a seed, and prints what they reached."""

    def measure() -> list[Figure]:
        with contest(load_recipe(recipe, overrides), rows, threads) as both:
            return _measure(both, seeds, faster)

    run(measure, as_json=as_json)


def _measure(both: Contest, seeds: int, faster: float) -> list[Figure]:
    lora = both.recipe.model.lora or Lora()
    learning_rate = both.recipe.train.learning_rate * faster
    epochs, rows = both.recipe.train.epochs, both.prepared.num_rows["train"]
    step(f"{rows:,} rows, {epochs} epochs, {seeds} seeds, {both.num_threads} threads on {both.device.type}")
    say(f"  adapters of rank {lora.r}, alpha {lora.alpha}, learning rate {learning_rate:g}")
    pairs: list[tuple[Outcome, Outcome]] = []
    for seed in range(seeds):
        adapters, whole = ours(both, seed, {"learning_rate": learning_rate}, lora), ours(both, seed)
        pairs.append((adapters, whole))
        say(
            f"  seed {seed}: adapters {rows * epochs / adapters.train_s:7.1f} samples/s, accuracy "
            f"{adapters.accuracy:.4f}; whole {rows * epochs / whole.train_s:7.1f} samples/s, accuracy "
            f"{whole.accuracy:.4f}"
        )
    return figures(pairs, trained_share(both, lora), rows * epochs)


def trained_share(both: Contest, lora: Lora) -> float:
    """Parameters that are trained, adapters and head, over all of the model's without adapters."""
    model = both.model()
    return num_trained(model, lora) / sum(parameter.numel() for parameter in model.parameters())


def figures(pairs: list[tuple[Outcome, Outcome]], share: float, num_samples: int) -> list[Figure]:
    """Of pairs (adapters, whole model), one for each seed, each trained on `num_samples` texts over its epochs."""
    accuracy, whole_accuracy = (fmean(pair[side].accuracy for pair in pairs) for side in (0, 1))
    seconds, whole_seconds = (fmean(pair[side].train_s for pair in pairs) for side in (0, 1))
    size, whole_size = (pairs[0][side].checkpoint_bytes / MB for side in (0, 1))
    return [
        Figure("lora_accuracy", accuracy, "fraction", whole_accuracy),
        Figure("lora_trained_share", share, "fraction", 1.0, more_is_better=False),
        Figure("lora_checkpoint_mb", size, "MB", whole_size, more_is_better=False),
        Figure("lora_samples_per_s", num_samples / seconds, "samples/s", num_samples / whole_seconds),
    ]


if __name__ == "__main__":
    main()
