"""The plan of a sweep: what will run, what it will cost, and whether that fits; said before it starts."""

import functools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray

from common.cluster import Resources, connect, read_record, resources, this_machine
from common.dataset import SPLITS, Splits
from common.errors import InputError
from common.location import local_path
from common.recipe import Recipe
from common.search_range import Point
from common.tracking_address import without_password
from scripts.display import duration, say, step
from scripts.job import Job
from serve.placement import check_gpus

if TYPE_CHECKING:
    from tune.allocation import Allocation
    from tune.cost import Cost
    from tune.measure import Measurement


MAX_MEASURING = 8
"""Workers that measure at once."""


def make_plan(job: Job, splits: Splits, points: Sequence[Point], *, measure: bool) -> dict[str, Any]:
    """Shows what a sweep will do on the cluster at hand and returns it; with `measure`, what it will cost too."""
    from tune.allocation import allocate

    recipe = job.recipe
    with _cluster_at_hand() as cluster:
        allocation = allocate(recipe.train, cluster, recipe.search)
        if recipe.serve.num_gpus:
            check_gpus(recipe.serve, cluster)
        step("Plan")
        steps_per_trial = -(-splits.train.num_rows // recipe.train.batch_size) * recipe.train.epochs
        say(
            f"  {recipe.search.num_trials} trials of up to {recipe.train.epochs} epochs ({steps_per_trial:,} steps at "
            f"batch {recipe.train.batch_size}), {allocation.max_concurrent} at once, each on {allocation.num_workers} "
            f"worker(s) of {allocation.cpus_per_worker} CPU, {allocation.gpus_per_worker:g} GPU"
        )
        if points:
            say(f"  the first {len(points)} trials start from " + _origin(recipe))
        say(f"  storage {job.storage}, tracking {without_password(job.tracking_uri)}")
        cost = asdict(measured_cost(recipe, splits, allocation)) if measure else {}
    return {
        "trials": recipe.search.num_trials,
        "epochs_per_trial": recipe.train.epochs,
        "steps_per_trial": steps_per_trial,
        "starting_points": list(points),
        "storage": job.storage,
        "tracking_uri": job.tracking_uri,
        **asdict(allocation),
        **cost,
    }


def refuse_what_cannot_fit(job: Job, splits: Splits, allocation: "Allocation") -> None:
    """Raises `InputError` when a sweep cannot reach its first rung in its time budget, or its storage cannot hold it.

    With a time budget a few steps are measured first; without one, disk space is reckoned from the model's size.
    """
    from tune.cost import disk_bytes, estimated_checkpoint_bytes

    recipe = job.recipe
    if recipe.search.time_budget_s is not None:
        cost = measured_cost(recipe, splits, allocation)
        _refuse_too_little_time(recipe, cost)
        needed = cost.disk_bytes
    else:
        running, finished = estimated_checkpoint_bytes(recipe, len(splits.labels))
        needed = disk_bytes(
            recipe,
            allocation.max_concurrent,
            running_bytes=running,
            finished_bytes=finished,
            prepared_bytes=prepared_bytes(recipe, splits),
        )
    _refuse_a_full_disk(job.storage, needed)


@contextmanager
def _cluster_at_hand() -> Iterator[Resources]:
    """The running cluster's resources, or this machine's when none is up."""
    if read_record() is None and not os.environ.get("RAY_ADDRESS"):
        yield this_machine()
        return
    with connect(private=False):
        yield resources()


def measured_cost(recipe: Recipe, splits: Splits, allocation: "Allocation") -> "Cost":
    """Times a few real steps and says what the sweep will take.

    On the cluster that this process is connected to, in as many workers at once as a sweep will have (at most 8),
    since trials on one machine slow each other down; without a cluster in this process alone.
    """
    from tune.cost import sweep_cost
    from tune.measure import NUM_STEPS, mean_of, measure, sample

    sizes = recipe.batch_sizes
    rows = sample(splits, sizes)
    task: Any = functools.partial(
        measure, recipe, rows, sizes, cpus_per_worker=allocation.cpus_per_worker, use_gpu=allocation.use_gpu
    )
    step(f"Measuring {NUM_STEPS} steps at batch " + " and ".join(map(str, sizes)))
    measured: list[Measurement]
    if ray.is_initialized():
        worker = ray.remote(_call).options(
            num_cpus=allocation.cpus_per_worker, num_gpus=allocation.gpus_per_worker, max_retries=0
        )
        num_workers = min(allocation.max_concurrent * allocation.num_workers, MAX_MEASURING)
        measured = mean_of(ray.get([worker.remote(task) for _ in range(num_workers)]))
    else:
        measured = task()
    for found in measured:
        say(
            f"  batch {found.batch_size}: {1 / found.train_s_per_row:,.0f} samples/s training, "
            f"{1 / max(found.validation_s_per_row, 1e-9):,.0f} validating, checkpoint {_size(found.running_bytes)}"
        )
    num_rows = {split: splits[split].num_rows for split in SPLITS}
    cost = sweep_cost(recipe, measured, allocation, num_rows, prepared_bytes(recipe, splits))
    _show(cost)
    return cost


def _call(task: Any) -> Any:
    return task()


def prepared_bytes(recipe: Recipe, splits: Splits) -> int:
    """At most, of the tokenised splits: each text, and 4 bytes for each of its tokens (a token has a byte at least)."""
    rows = sum(int(splits[split].num_rows) for split in SPLITS)
    text = sum(int(splits[split]["text"].nbytes) for split in SPLITS)
    return text + 4 * min(text + 2 * rows, rows * recipe.model.max_length) + 12 * rows


def _refuse_too_little_time(recipe: Recipe, cost: "Cost") -> None:
    budget_s = recipe.search.time_budget_s
    if budget_s is None:
        return
    if cost.first_rung_s > budget_s:
        raise InputError(
            f"search.time_budget_s {budget_s:g} is too short for a single trial: its first epoch takes about "
            f"{cost.first_rung_s:,.0f} s here. Raise it, use fewer rows, a smaller model.base or a larger cluster."
        )
    if cost.expected_s > budget_s:
        say(
            f"  warning: the sweep takes about {duration(cost.expected_s)} and search.time_budget_s ends it after "
            f"{duration(budget_s)}: not all {recipe.search.num_trials} trials will run"
        )


def _refuse_a_full_disk(storage: str, needed_bytes: int) -> None:
    folder = local_path(storage)
    if folder is None:
        return
    free_bytes = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free_bytes < needed_bytes:
        raise InputError(
            f"storage {storage} has {_size(free_bytes)} free and the sweep needs up to {_size(needed_bytes)}: free "
            "some, name another place with --storage, or lower search.num_trials or search.max_concurrent"
        )


def _show(cost: "Cost") -> None:
    say(
        f"  expected {duration(cost.expected_s)}, at most {duration(cost.bound_s)} (no trial stopped early); "
        f"{cost.device_hours:.2g} {cost.device} hours, at most {cost.device_hours_bound:.2g}; "
        f"disk up to {_size(cost.disk_bytes)}"
    )


def _size(num_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def _origin(recipe: Recipe) -> str:
    named = recipe.search.warm_start
    return f"the best of {named}" if isinstance(named, str) else "the points of search.warm_start"
