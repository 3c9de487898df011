"""The search: Ray Tune runs the trials, Optuna suggests them, ASHA stops the unpromising ones.

A sweep lives in one folder: `study.journal` (the study, see `tune.study`) and `trials/` (checkpoints). Running it again
with the same folder continues it.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from common.errors import InputError, TrainingError
from common.location import cache_folder, local_path
from common.metrics import direction
from common.recipe import Recipe
from common.tokenised import PreparedData
from common.tracking import DatasetInput, Tracker
from tune.allocation import Allocation
from tune.recorder import OnUpdate, TrialRecorder
from tune.run_recovery import recover_runs
from tune.study import StudySearch, TrialRecord, journal
from tune.trial import TrialTask, run_trial
from tune.tuner import run_trials

REDUCTION_FACTOR = 3
"""ASHA keeps the best third at each rung (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning")."""


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    sweep_id: str
    trials: tuple[TrialRecord, ...]
    """The leaderboard: best first, then those without a result."""
    run_id: str
    """MLflow run of the sweep, the parent of the trials' runs."""
    seconds: float

    @property
    def best(self) -> TrialRecord:
        """The winner on the validation split."""
        return self.trials[0]


def sweep(
    recipe: Recipe,
    prepared: PreparedData,
    *,
    sweep_id: str,
    folder: str,
    allocation: Allocation,
    tracker: Tracker,
    recipe_yaml: str,
    on_update: OnUpdate,
) -> SweepResult:
    """Runs the recipe's search to its end, or continues the one that `folder` holds.

    `on_update` is called in this process with every trial that an earlier driver left, and with each trial that starts,
    reports or ends.

    Raises:
        InputError: when `folder` holds a sweep of another recipe or of other data.
        TrainingError: when no trial finished an epoch.
    """
    started = time.monotonic()
    epochs = max(int(value) for value in _epochs(recipe))
    storage = journal(study_file(folder))
    search = StudySearch(recipe.search, name=sweep_id, storage=storage, epochs=recipe.train.epochs)
    _refuse_changes(search, {"recipe": _searched(recipe), "data": prepared.data_digest})
    run_id = _parent_run(search, tracker, sweep_id, recipe, prepared, recipe_yaml)
    recover_runs(search, tracker, run_id)
    recorder = TrialRecorder(search, tracker, run_id, on_update)
    search.settle(tracker.finish)
    for record in search.records():
        on_update(record)
    remaining = recipe.search.num_trials - search.num_finished
    if remaining > 0:
        try:
            _tune(recipe, prepared, search, recorder, folder, allocation, remaining, epochs)
            search.end_unfinished()
            recorder.close("FINISHED")
        except BaseException:
            recorder.close("KILLED")
            tracker.finish(run_id, "KILLED")
            raise
    trials = leaderboard(search.records(), recipe.search.metric)
    if not trials[0].metrics or trials[0].state == "failed":
        tracker.finish(run_id, "FAILED")
        reasons = {record.failure for record in trials if record.failure}
        raise TrainingError(
            f"sweep {sweep_id}: none of {len(trials)} trials finished an epoch: {'; '.join(sorted(reasons))}. "
            "Mend the cause and start a new sweep."
        )
    tracker.log_metrics(run_id, trials[0].metrics, step=0)
    tracker.finish(run_id, "FINISHED")
    return SweepResult(sweep_id, tuple(trials), run_id, time.monotonic() - started)


def leaderboard(records: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials in order of the metric's best value over their epochs; those without a result last."""
    sign = 1.0 if direction(metric) == "min" else -1.0
    ranked = [record for record in records if record.metrics and record.state != "failed"]
    rest = [record for record in records if not record.metrics or record.state == "failed"]
    return sorted(ranked, key=lambda record: sign * record.metrics[metric]) + rest


def _tune(
    recipe: Recipe,
    prepared: PreparedData,
    search: StudySearch,
    recorder: TrialRecorder,
    folder: str,
    allocation: Allocation,
    num_trials: int,
    epochs: int,
) -> None:
    task = TrialTask(prepared.uri, recipe.train, recipe.search.metric, allocation, f"{folder}/groups")
    scheduler = make_scheduler(recipe, epochs)
    replay(scheduler, search.records(), recipe.search.metric)
    run_trials(
        functools.partial(run_trial, task=task),
        search=search,
        scheduler=scheduler,
        recorder=recorder,
        folder=folder,
        resources=_resources(allocation),
        num_trials=num_trials,
        max_concurrent=allocation.max_concurrent,
        time_budget_s=recipe.search.time_budget_s,
    )


def _resources(allocation: Allocation) -> dict[str, float]:
    if allocation.num_workers > 1:
        return {"memory": 1}  # its Ray Train group holds the resources; none at all is refused
    bundle = {"CPU": float(allocation.cpus_per_worker), "GPU": allocation.gpus_per_worker}
    return {name: amount for name, amount in bundle.items() if amount}


def make_scheduler(recipe: Recipe, epochs: int) -> TrialScheduler:
    """ASHA over epochs, or FIFO when there is nothing to stop early."""
    if recipe.search.scheduler == "fifo" or epochs == 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=recipe.search.metric,
        mode=direction(recipe.search.metric),
        max_t=epochs,
        grace_period=1,
        reduction_factor=REDUCTION_FACTOR,
        stop_last_trials=False,
    )


def replay(scheduler: Any, records: Sequence[TrialRecord], metric: str) -> None:
    """Fills ASHA's rungs with what earlier drivers saw; Tune itself forgets them."""
    for record in records:
        if record.state == "running":
            continue  # it reports again when it is resumed, under another id
        trial: Any = SimpleNamespace(trial_id=f"earlier-{record.number}")  # ASHA looks at a trial's id alone
        scheduler.on_trial_add(None, trial)
        for epoch in record.history:
            scheduler.on_trial_result(None, trial, {"epoch": epoch["epoch"], metric: epoch[metric]})


def _epochs(recipe: Recipe) -> tuple[float, ...]:
    searched = recipe.search.space.get("epochs")
    return searched.bounds() if searched else (recipe.train.epochs,)


def study_file(folder: str) -> Path:
    """The study's file: in `folder`, or on this machine when `folder` is elsewhere (object stores cannot append)."""
    local = local_path(folder)
    if local is None:
        return cache_folder() / "sweeps" / folder.rsplit("/", 1)[-1] / "study.journal"
    return local / "study.journal"


def _searched(recipe: Recipe) -> str:
    """The parts of a recipe that a sweep's results depend on; more trials or time are allowed on resuming."""
    return recipe.model_dump_json(
        include={"model": True, "train": True, "search": {"space", "metric", "scheduler", "seed"}}
    )


def _refuse_changes(search: StudySearch, identity: dict[str, str]) -> None:
    known = search.study.user_attrs
    for what, value in identity.items():
        if known.get(what, value) != value:
            raise InputError(
                f"sweep {search.study.study_name} was started with another {what}:\n"
                f"  then {known[what]}\n  now  {value}\n"
                f"Start a new sweep (without --resume), or go back to the {what} it was started with."
            )
        search.study.set_user_attr(what, value)


def _parent_run(
    search: StudySearch, tracker: Tracker, sweep_id: str, recipe: Recipe, prepared: PreparedData, recipe_yaml: str
) -> str:
    """Starts the sweep's MLflow run, or finds the one an earlier driver started."""
    known = search.study.user_attrs.get("run_id")
    if known:
        tracker.reopen(known)
        return str(known)
    params = {"num_trials": recipe.search.num_trials, "metric": recipe.search.metric}
    dataset = DatasetInput(recipe.name, prepared.data_digest, recipe.data.source, prepared.num_rows)
    run_id = tracker.start(sweep_id, params=params, recipe_yaml=recipe_yaml, dataset=dataset)
    search.study.set_user_attr("run_id", run_id)
    return run_id
