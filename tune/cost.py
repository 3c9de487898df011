"""What a sweep will take: time, device-hours and disk, expected and at most."""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.recipe import BUILTIN, Recipe
from tune.adapters import blank_model, num_trained
from tune.allocation import Allocation
from tune.measure import Measurement
from tune.scheduler import REDUCTION_FACTOR, rungs

NUM_SIMULATIONS = 50

STORED_WHILE_RUNNING = 4
"""Checkpoints of a running trial: the two best, the latest, and the one that is being stored."""


@dataclass(frozen=True)
class Cost:
    """Of a whole sweep, its confirming runs included."""

    expected_s: float
    """With ASHA stopping the worse two thirds at each rung, on the mean of the measured batch sizes."""
    bound_s: float
    """When no trial is stopped early, at the slowest batch size."""
    first_rung_s: float
    """Until a trial at the slowest batch size reports for the first time."""
    device: Literal["GPU", "CPU core"]
    device_hours: float
    """Expected."""
    device_hours_bound: float
    disk_bytes: int
    """At most: checkpoints that are kept, those of running trials, and the prepared data."""


def sweep_cost(
    recipe: Recipe,
    measured: Sequence[Measurement],
    allocation: Allocation,
    num_rows: Mapping[str, int],
    prepared_bytes: int,
) -> Cost:
    """The cost of the recipe's sweep on `allocation`, with several workers assumed to share a trial's steps evenly."""
    search = recipe.search
    epochs = recipe.max_epochs
    confirming = search.confirm.top * search.confirm.seeds if search.confirm else 0
    epoch_s = [_epoch_s(found, allocation.num_workers, num_rows) for found in measured]
    start_s = max(found.start_s for found in measured)
    slots = allocation.max_concurrent

    num_epochs = expected_epochs(search.num_trials, epochs, rungs(recipe)) + confirming * epochs
    mean_s = sum(epoch_s) / len(epoch_s)
    expected_s = (num_epochs * mean_s + (search.num_trials + confirming) * start_s) / slots
    trial_s = start_s + epochs * max(epoch_s)
    bound_s = (-(-search.num_trials // slots) + -(-confirming // slots)) * trial_s
    expected_s = min(max(expected_s, start_s + epochs * mean_s), bound_s)
    per_worker = allocation.gpus_per_worker if allocation.use_gpu else allocation.cpus_per_worker
    num_devices = slots * allocation.num_workers * per_worker
    return Cost(
        expected_s=expected_s,
        bound_s=bound_s,
        first_rung_s=start_s + max(epoch_s),
        device="GPU" if allocation.use_gpu else "CPU core",
        device_hours=num_devices * expected_s / 3600,
        device_hours_bound=num_devices * bound_s / 3600,
        disk_bytes=disk_bytes(
            recipe,
            slots,
            running_bytes=max(found.running_bytes for found in measured),
            finished_bytes=max(found.finished_bytes for found in measured),
            prepared_bytes=prepared_bytes,
        ),
    )


def disk_bytes(
    recipe: Recipe, max_concurrent: int, *, running_bytes: int, finished_bytes: int, prepared_bytes: int
) -> int:
    """What a sweep stores at most: a finished trial keeps its best checkpoint alone, without the optimiser's state."""
    search = recipe.search
    num_runs = search.num_trials + (search.confirm.top * search.confirm.seeds if search.confirm else 0)
    return num_runs * finished_bytes + max_concurrent * STORED_WHILE_RUNNING * running_bytes + prepared_bytes


def estimated_checkpoint_bytes(recipe: Recipe, num_labels: int) -> tuple[int, int]:
    """Of a running and of a finished trial, from the configuration alone: fp32 weights, and twice that for AdamW."""
    if recipe.model.base.startswith(BUILTIN):
        return 0, 0  # too small to matter
    model = blank_model(recipe.model.base, num_labels, recipe.model.revision)
    lora = recipe.largest_lora
    num_stored = num_trained(model, lora) if lora else sum(parameter.numel() for parameter in model.parameters())
    return 3 * 4 * num_stored, 4 * num_stored


def expected_epochs(num_trials: int, epochs: int, stops: Sequence[int]) -> float:
    """Epochs that all trials together train, when they come in no particular order of quality.

    From simulated sweeps: a trial's quality is the same at every rung, and a trial passes a rung when it is not below
    the (1 - 1/r) quantile of those that came before it, as in Ray Tune's ASHA.
    """
    if not stops:
        return float(num_trials * epochs)
    qualities = np.random.default_rng(0).random((NUM_SIMULATIONS, num_trials))
    total = sum(_simulated_epochs(sweep, stops, epochs) for sweep in qualities.tolist())
    return total / NUM_SIMULATIONS


def _simulated_epochs(qualities: Sequence[float], stops: Sequence[int], epochs: int) -> int:
    seen: dict[int, list[float]] = {rung: [] for rung in stops}  # in rising order
    total = 0
    for quality in qualities:
        trained = epochs
        for rung in stops:
            stays = not seen[rung] or quality >= _quantile(seen[rung], 1 - 1 / REDUCTION_FACTOR)
            bisect.insort(seen[rung], quality)
            if not stays:
                trained = rung
                break
        total += trained
    return total


def _quantile(rising: Sequence[float], share: float) -> float:
    """Linearly interpolated, as numpy's default."""
    place = share * (len(rising) - 1)
    below = int(place)
    above = min(below + 1, len(rising) - 1)
    return rising[below] + (place - below) * (rising[above] - rising[below])


def _epoch_s(found: Measurement, num_workers: int, num_rows: Mapping[str, int]) -> float:
    rows_s = num_rows["train"] * found.train_s_per_row + num_rows["validation"] * found.validation_s_per_row
    return rows_s / num_workers + found.checkpoint_s
