"""`tuneserve reproduce`: a run is trained again from what MLflow and the storage hold of it, and compared."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common.cluster import connect, resources
from common.dataset import Splits, load_splits
from common.errors import DataError
from common.location import join
from common.pinned_data import changes_since
from common.provenance import environment
from common.recipe import NumWorkers
from common.storage import delete_folder
from common.tokenised import PreparedData, prepare
from scripts.display import epoch_line, say, step
from scripts.job import storage_location, tracking_location
from scripts.steps import Result

if TYPE_CHECKING:
    from tune.allocation import Allocation
    from tune.run_record import RunRecord

EXACTLY, WITHIN_TOLERANCE, NO = "exactly", "within_tolerance", "no"
"""How the metrics of a run that was trained again match those recorded."""

LOSS_TOLERANCE = 0.02
"""A loss may differ by this fraction of what was recorded."""

SCORE_TOLERANCE = 0.005
"""Accuracy and macro-F1 may differ by half a point: other hardware and other versions add up in another order."""

Epochs = Mapping[int, Mapping[str, float]]
"""By epoch, metrics by name."""


def reproduce(run_id: str, *, storage: str | None, mlflow_uri: str | None) -> Result:
    """Trains a run again, as many epochs as it had, and says whether the metrics match; records nothing.

    Raises:
        InputError: when there is no such run, or one that cannot be trained again.
        DataError: when its rows are not there any more, with what changed.
        ClusterError: when the cluster cannot hold the workers and threads that it had.
    """
    from tune.allocation import allocate
    from tune.run_record import read_run

    place = storage_location(storage)
    record = read_run(tracking_location(mlflow_uri, place), run_id)
    recipe = record.recipe
    splits = _same_rows(record, place)
    with connect():
        allocation = allocate(recipe.train, resources())
        step(f"Training run {run_id} of {recipe.name} again, {len(record.epochs)} epoch(s)")
        epochs = _train_again(record, prepare(recipe, splits, place), allocation, place)
    match, differences = compare(record.epochs, epochs)
    changed = _changed(record, allocation)
    _show(match, differences, changed)
    return {
        "run_id": run_id,
        "match": match,
        "differences": differences,
        "recorded": {str(epoch): dict(metrics) for epoch, metrics in record.epochs.items()},
        "reproduced": {str(epoch): dict(metrics) for epoch, metrics in epochs.items()},
        "changed": changed,
        "data_sha256": record.data_digest,
    }


def compare(recorded: Epochs, reproduced: Epochs) -> tuple[str, dict[str, float]]:
    """How they match, and the largest difference of each metric: of losses as a fraction, of scores absolute."""
    largest: dict[str, float] = {}
    for epoch, metrics in recorded.items():
        for name, before in metrics.items():
            difference = abs(reproduced[epoch][name] - before)
            if name.endswith("loss") and difference:
                difference /= max(abs(before), 1e-12)
            largest[name] = max(largest.get(name, 0.0), math.inf if math.isnan(difference) else difference)
    if not any(largest.values()):
        return EXACTLY, largest
    within = all(value <= _tolerance(name) for name, value in largest.items())
    return WITHIN_TOLERANCE if within else NO, largest


def _tolerance(name: str) -> float:
    return LOSS_TOLERANCE if name.endswith("loss") else SCORE_TOLERANCE


def _same_rows(record: "RunRecord", storage: str) -> Splits:
    splits = load_splits(record.recipe.data)
    if splits.digest != record.data_digest:
        lines = "\n".join(f"  {line}" for line in changes_since(record.data_digest, splits, storage))
        raise DataError(
            f"run {record.run_id} cannot be reproduced: {splits.source} does not hold the rows that it was trained on "
            f"any more ({record.data_digest[:16]}...):\n{lines}\nBring those rows back."
        )
    return splits


class _EnoughError(Exception):
    """The run had no more epochs: the scheduler stopped it."""


def _train_again(record: "RunRecord", prepared: PreparedData, allocation: "Allocation", storage: str) -> Epochs:
    from tune.run_record import COMPARED
    from tune.trainer import fit

    recipe, epochs = record.recipe, dict[int, Mapping[str, float]]()
    num_workers = int(record.resources.get("num_workers", allocation.num_workers))
    settings = recipe.train.model_copy(update={"num_workers": NumWorkers(min=num_workers, max=num_workers)})
    folder = join(storage, "reproductions", uuid.uuid4().hex[:12])

    def keep(metrics: dict[str, float]) -> None:
        say("  " + epoch_line(metrics))
        epochs[int(metrics["epoch"])] = {name: metrics[name] for name in COMPARED}
        if len(epochs) == len(record.epochs) < settings.epochs:
            raise _EnoughError

    try:
        fit(
            prepared,
            settings,
            metric=recipe.search.metric,
            run_name="run",
            storage_path=folder,
            # As many threads as then: the order of sums follows from them.
            cpus_per_worker=int(record.resources.get("cpus_per_worker", allocation.cpus_per_worker)),
            use_gpu=allocation.use_gpu,
            on_report=keep,
            lora=recipe.model.lora,
        )
    except _EnoughError:
        pass
    finally:
        delete_folder(folder)
    return epochs


def _changed(record: "RunRecord", allocation: "Allocation") -> dict[str, list[Any]]:
    """What is other than it was: by name, the value recorded and that of now; None where there is none."""
    before: dict[str, Any] = {**record.environment}
    now: dict[str, Any] = environment() if before else {}
    if record.resources:
        before["gpus_per_worker"] = record.resources["gpus_per_worker"]
        now = {**now, "gpus_per_worker": asdict(allocation)["gpus_per_worker"]}
    names = dict.fromkeys([*before, *now])
    return {name: [before.get(name), now.get(name)] for name in names if before.get(name) != now.get(name)}


def _show(match: str, differences: Mapping[str, float], changed: Mapping[str, list[Any]]) -> None:
    said = {EXACTLY: "the same, exactly", WITHIN_TOLERANCE: "the same, within tolerance", NO: "not the same"}
    largest = ", ".join(f"{name} {value:.2g} (up to {_tolerance(name):g})" for name, value in differences.items())
    say(f"  metrics: {said[match]}" + ("" if match == EXACTLY else f"; largest differences: {largest}"))
    for name, (before, now) in changed.items():
        say(f"  other than then: {name} {before} -> {now}")
