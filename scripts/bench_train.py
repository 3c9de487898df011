"""How fast one fine-tuning is, and how good, beside the way tutorials do it.

    python -m scripts.bench_train recipes/quickstart.yaml       # what ships: headlines and a small BERT
    python -m scripts.bench_train recipes/sms_spam.yaml data.source=PATH/all.csv data.text_column=text \\
        model.base=PATH/minilm train.learning_rate=1e-4 --rows 1500

The baseline is Transformers' `Trainer` as tutorials use it: texts padded to 128 tokens, batches of 8, learning rate
5e-5, fp32. Ours is `tune.train_loop.train` with the recipe's settings. Both train for the same epochs from the same
weights on the same rows with the same threads, in turn, once a seed; rates count training alone, accuracy is that of
the validation split after the last epoch. The share of the matrix rate is the work that the tokens need (6 operations
for each weight of a matrix and token, padding not counted) over what a large product of matrices reaches on the device.
At the end one more epoch of ours is profiled, and the operations that took most of it are listed.

Needs no Ray, so it also runs alone on a GPU machine; `--bert-base` then trains BERT-base with random weights.
"""

import time
from pathlib import Path
from statistics import fmean

import click
import numpy as np
import torch
import torch.profiler
import transformers
from torch import nn

from common.recipe_file import load_recipe
from common.tokenised import local_base_model
from scripts.benchmark import Figure, run
from scripts.contest import Contest, Outcome, contest, ours, tutorial
from scripts.display import say, step
from tune.precision import compute_dtype

MATRIX_SIZES = {"cpu": 2048, "cuda": 8192}
MATRIX_REPEATS = 5
NUM_OPERATIONS_SHOWN = 12


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1)
@click.option("--seeds", default=3, show_default=True, help="Trainings of each kind.")
@click.option("--rows", type=int, help="Training rows; all by default.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="CPU threads of either.")
@click.option("--bert-base", is_flag=True, help="Random weights of BERT-base; wants model.base=builtin:tiny_bert.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def main(
    recipe: str, overrides: tuple[str, ...], seeds: int, rows: int | None, threads: int, bert_base: bool, as_json: bool
) -> None:
    """Trains both ways in turn, once a seed, and prints what they reached."""

    def measure() -> list[Figure]:
        with contest(load_recipe(recipe, overrides), rows, threads) as both:
            if bert_base:
                _write_bert_base(both)
            return _measure(both, seeds)

    run(measure, as_json=as_json)


def _measure(both: Contest, seeds: int) -> list[Figure]:
    epochs, rows = both.recipe.train.epochs, both.prepared.num_rows["train"]
    step(f"{rows:,} rows, {epochs} epochs, {seeds} seeds, {both.num_threads} threads on {both.device.type}")
    outcomes: list[tuple[Outcome, Outcome]] = []
    for seed in range(seeds):
        mine, theirs = ours(both, seed), tutorial(both, seed)
        outcomes.append((mine, theirs))
        say(
            f"  seed {seed}: ours {rows * epochs / mine.train_s:7.1f} samples/s, accuracy {mine.accuracy:.4f}; "
            f"tutorial {rows * epochs / theirs.train_s:7.1f} samples/s, accuracy {theirs.accuracy:.4f}"
        )
    mine_s, theirs_s = (fmean(pair[side].train_s for pair in outcomes) for side in (0, 1))
    accuracy, usual = (fmean(pair[side].accuracy for pair in outcomes) for side in (0, 1))
    dtype = compute_dtype(both.recipe.train.precision, both.device)
    torch.set_num_threads(both.num_threads)
    rate = matrix_rate(both.device, dtype)
    say(f"  a product of {MATRIX_SIZES[both.device.type]}-wide {dtype} matrices reaches {rate / 1e12:.3f} TFLOP/s")
    _profile(both)
    samples, tokens = rows * epochs, float(both.texts("train").lengths.sum()) * epochs
    needed = operations(both) * epochs
    return [
        Figure("train_samples_per_s", samples / mine_s, "samples/s", samples / theirs_s),
        Figure("train_tokens_per_s", tokens / mine_s, "tokens/s", tokens / theirs_s),
        Figure("train_accuracy", accuracy, "fraction", usual),
        Figure("train_matrix_share", needed / mine_s / rate, "fraction", needed / theirs_s / rate),
    ]


def _profile(both: Contest) -> None:
    """Says which operations an epoch of ours consists of, validation included."""
    with torch.profiler.profile() as profile:
        ours(both, 0, {"epochs": 1})
    on_gpu = both.device.type == "cuda"
    times = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profile.key_averages()
    }
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:NUM_OPERATIONS_SHOWN]
    say("  of an epoch: " + ", ".join(f"{name} {time / total:.0%}" for name, time in largest))


def operations(both: Contest) -> float:
    """Floating-point operations of one epoch, forward and backward, that the tokens of the training split need.

    Six for each weight of a matrix and token, and for attention twelve times layers, width and length for each token
    (Chowdhery et al., 2022, "PaLM", appendix B).
    """
    model = both.model()
    weights = float(sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)))
    lengths = both.texts("train").lengths.astype(np.float64)
    attention: float = 12.0 * model.config.num_hidden_layers * model.config.hidden_size * float((lengths**2).sum())
    return 6.0 * weights * float(lengths.sum()) + attention


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a product of two large matrices, the best of a few."""
    size = MATRIX_SIZES[device.type]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(MATRIX_REPEATS):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _write_bert_base(both: Contest) -> None:
    """Puts BERT-base with random weights into the place of the small BERT that the recipe names."""
    folder = Path(local_base_model(both.prepared))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.BertConfig(vocab_size=len(tokenizer), pad_token_id=both.prepared.pad_token_id)
    transformers.BertModel(config).save_pretrained(folder)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
