"""What a fine-tuning takes on the hardware at hand, from a few real steps; nothing of them is kept."""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.dataset import Splits, digest_of
from common.recipe import Recipe
from common.tokenised import prepare
from tune.train_loop import train
from tune.trainer import loop_config

NUM_STEPS = 4
NUM_VALIDATION_ROWS = 128


@dataclass(frozen=True)
class Measurement:
    """One worker's times and sizes at one batch size."""

    batch_size: int
    train_s_per_row: float
    validation_s_per_row: float
    checkpoint_s: float
    """Writing and storing an epoch's checkpoint."""
    start_s: float
    """Loading the model, up to the first step."""
    running_bytes: int
    """A checkpoint that training can continue from."""
    finished_bytes: int
    """A checkpoint of the model alone."""


def sample(splits: Splits, batch_sizes: Sequence[int]) -> Splits:
    """Texts of all lengths, the longest included: as many training rows as the steps of the largest batch take."""
    rows = {
        "train": _by_length(splits.train, NUM_STEPS * max(batch_sizes)),
        "validation": _by_length(splits.validation, NUM_VALIDATION_ROWS),
        "test": _by_length(splits.test, 1),
    }
    return Splits(**rows, labels=splits.labels, digest=digest_of(rows), source=splits.source)


def measure(
    recipe: Recipe, rows: Splits, batch_sizes: Sequence[int], *, cpus_per_worker: int, use_gpu: bool
) -> list[Measurement]:
    """Trains two short epochs in this process at each batch size: the first is warm-up, the second is timed."""
    with tempfile.TemporaryDirectory(prefix="tuneserve-measure-") as folder:
        return [_measure(recipe, rows, size, cpus_per_worker, use_gpu, Path(folder)) for size in batch_sizes]


def mean_of(by_worker: Sequence[Sequence[Measurement]]) -> list[Measurement]:
    """The mean over workers that measured the same batch sizes at the same time."""
    means = []
    for same in zip(*by_worker, strict=True):
        numbers = [dataclasses.asdict(found) for found in same]
        mean = {name: sum(found[name] for found in numbers) / len(numbers) for name in numbers[0]}
        means.append(Measurement(**{name: round(mean[name]) if name in _WHOLE else mean[name] for name in mean}))
    return means


_WHOLE = ("batch_size", "running_bytes", "finished_bytes")


def _measure(
    recipe: Recipe, rows: Splits, batch_size: int, cpus_per_worker: int, use_gpu: bool, folder: Path
) -> Measurement:
    training = _by_length(rows.train, NUM_STEPS * batch_size)
    prepared = prepare(
        recipe, dataclasses.replace(rows, train=training, digest=f"{rows.digest}-{batch_size}"), str(folder)
    )
    settings = recipe.train.model_copy(update={"epochs": 2, "batch_size": batch_size, "use_gpu": use_gpu})
    epochs: list[_Epoch] = []

    def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None, "a single worker is rank 0"
        trained_at = time.perf_counter()
        copy = shutil.copytree(checkpoint, folder / "checkpoint")  # as it would be stored
        num_bytes = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
        shutil.rmtree(copy)
        epochs.append(_Epoch(metrics["seconds"], metrics["samples_per_s"], num_bytes, trained_at, time.perf_counter()))

    started_at = time.perf_counter()
    train(loop_config(prepared, settings, num_threads=cpus_per_worker, lora=recipe.largest_lora), report)
    warm_up, timed = epochs
    epoch_s = timed.seconds - warm_up.seconds
    return Measurement(
        batch_size=batch_size,
        train_s_per_row=1 / timed.rows_per_s,
        validation_s_per_row=max(epoch_s - training.num_rows / timed.rows_per_s, 0.0) / rows.validation.num_rows,
        checkpoint_s=max(timed.stored_at - warm_up.stored_at - epoch_s, 0.0),
        start_s=max(warm_up.trained_at - started_at - warm_up.seconds, 0.0),
        running_bytes=warm_up.num_bytes,
        finished_bytes=timed.num_bytes,
    )


@dataclass(frozen=True)
class _Epoch:
    seconds: float
    """Training and validation since the first epoch began."""
    rows_per_s: float
    num_bytes: int
    """Of its checkpoint."""
    trained_at: float
    stored_at: float


def _by_length(rows: pa.Table, num_rows: int) -> pa.Table:
    """That many rows, evenly spread over the lengths of the texts, from the longest down."""
    lengths = pc.utf8_length(rows["text"]).to_numpy()
    order = np.argsort(-lengths, kind="stable")
    places = np.linspace(0, len(order) - 1, min(num_rows, len(order))).round().astype(np.int64)
    return rows.take(pa.array(order[places]))
