"""The search: Ray Tune runs the trials, Optuna suggests them, ASHA stops the unpromising ones.

A sweep lives in one folder: `study.journal` (the study, see `tune.study`), `trials/` and `confirm/` (checkpoints).
Running it again with the same folder continues it.
"""

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray.tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from common.errors import TrainingError
from common.location import cache_folder, local_path
from common.metrics import direction
from common.recipe import Recipe
from common.search_range import Point
from common.search_settings import Search
from common.tokenised import PreparedData
from common.tracking import DatasetInput, Tracker
from tune.allocation import Allocation
from tune.confirm import ConfirmationSearch, crowned, fresh_seeds, representative
from tune.identity import refuse_changes
from tune.recorder import OnUpdate, TrialRecorder
from tune.scheduler import make_scheduler, replay
from tune.study import StudySearch, TrialRecord, journal
from tune.trial import TrialTask, run_trial

MAX_PROCESS_FAILURES = 3
"""How often a trial is continued elsewhere after its process or node died."""


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended."""

    sweep_id: str
    trials: tuple[TrialRecord, ...]
    """The leaderboard: confirmed configurations by their mean, the others by their best epoch, then the failed."""
    confirm_runs: tuple[TrialRecord, ...]
    """The runs with fresh seeds."""
    best: TrialRecord
    """What is to be promoted: the winner on the validation split, or, confirmed, its run nearest to the mean."""
    run_id: str
    """MLflow run of the sweep, the parent of the trials' runs."""
    seconds: float


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
    points: Sequence[Point] = (),
) -> SweepResult:
    """Runs the recipe's search to its end, or continues the one that `folder` holds.

    `on_update` is called in this process with all trials whenever one starts, reports or ends.
    `points` are tried first.

    Raises:
        InputError: when `folder` holds a sweep of another recipe or of other data.
        TrainingError: when no trial finished an epoch.
    """
    started = time.monotonic()
    storage = journal(study_file(folder))
    search = StudySearch(recipe.search, name=sweep_id, storage=storage, epochs=recipe.train.epochs)
    refuse_changes(search, recipe, prepared.data_digest)
    search.describe(recipe_yaml, prepared.uri)
    run_id = _parent_run(search, tracker, sweep_id, recipe, prepared, recipe_yaml)
    driver = _Driver(recipe, prepared, folder, allocation, tracker, run_id, on_update)
    search.start_from(points)
    driver.search(search)
    trials = leaderboard(search.records(), recipe.search.metric)
    if not trials[0].metrics or trials[0].state == "failed":
        tracker.finish(run_id, "FAILED")
        reasons = {record.failure for record in trials if record.failure}
        raise TrainingError(
            f"sweep {sweep_id}: none of {len(trials)} trials finished an epoch: {'; '.join(sorted(reasons))}. "
            "Mend the cause and start a new sweep."
        )
    runs: list[TrialRecord] = []
    best = trials[0]
    if recipe.search.confirm is not None:
        seeds = fresh_seeds(recipe, recipe.search.confirm)
        leaders = [trial for trial in trials[: recipe.search.confirm.top] if trial.metrics and trial.state != "failed"]
        confirmation = ConfirmationSearch(recipe, name=sweep_id, storage=storage, leaders=leaders, seeds=seeds)
        driver.confirm(confirmation, search.records(), started)
        runs = confirmation.records()
        trials = crowned(trials, runs, seeds, recipe.search.metric)
        best = representative(trials[0], runs, seeds, recipe.search.metric)
    tracker.log_metrics(run_id, best.metrics, step=0)
    tracker.finish(run_id, "FINISHED")
    return SweepResult(sweep_id, tuple(trials), tuple(runs), best, run_id, time.monotonic() - started)


def leaderboard(records: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials in order of the metric's best value over their epochs; those without a result last."""
    sign = 1.0 if direction(metric) == "min" else -1.0
    ranked = [record for record in records if record.metrics and record.state != "failed"]
    rest = [record for record in records if not record.metrics or record.state == "failed"]
    return sorted(ranked, key=lambda record: sign * record.metrics[metric]) + rest


def search_budget_s(search: Search) -> float | None:
    """The search's part of the time budget: each planned training gets an equal share, the confirming ones too."""
    if search.time_budget_s is None or search.confirm is None:
        return search.time_budget_s
    num_runs = search.confirm.top * search.confirm.seeds
    return search.time_budget_s * search.num_trials / (search.num_trials + num_runs)


@dataclass(frozen=True)
class _Driver:
    """Runs trials with Ray Tune and has them recorded: first the search's, then those that confirm."""

    recipe: Recipe
    prepared: PreparedData
    folder: str
    allocation: Allocation
    tracker: Tracker
    run_id: str
    on_update: OnUpdate

    def search(self, search: StudySearch) -> None:
        """Runs the trials that are missing."""
        search.settle(self.tracker.finish)
        scheduler = make_scheduler(self.recipe, self.recipe.max_epochs)
        replay(scheduler, search.records(), self.recipe.search.metric)
        self._run(search, "trials", scheduler, search_budget_s(self.recipe.search), self.on_update)

    def confirm(self, search: ConfirmationSearch, trials: Sequence[TrialRecord], started: float) -> None:
        """Trains the leaders in full with fresh seeds, in what is left of the time budget since `started`."""
        search.settle(self.tracker.finish)
        budget_s = self.recipe.search.time_budget_s
        left_s = None if budget_s is None else max(started + budget_s - time.monotonic(), 1.0)
        self._run(search, "confirm", FIFOScheduler(), left_s, lambda runs: self.on_update([*trials, *runs]))

    def _run(
        self,
        search: StudySearch,
        name: str,
        scheduler: TrialScheduler,
        time_budget_s: float | None,
        on_update: OnUpdate,
    ) -> None:
        recorder = TrialRecorder(search, self.tracker, self.run_id, on_update)
        on_update(search.records())
        if search.num_missing <= 0:
            return
        try:
            self._tune(search, name, scheduler, time_budget_s, recorder)
            search.end_unfinished()
            recorder.close("FINISHED")
        except BaseException:
            recorder.close("KILLED")
            self.tracker.finish(self.run_id, "KILLED")
            raise

    def _tune(
        self,
        search: StudySearch,
        name: str,
        scheduler: TrialScheduler,
        time_budget_s: float | None,
        recorder: TrialRecorder,
    ) -> None:
        _quiet_tune()
        recipe, allocation = self.recipe, self.allocation
        task = TrialTask(
            self.prepared.uri,
            recipe.train,
            recipe.model.lora,
            recipe.search.metric,
            allocation,
            f"{self.folder}/groups",
        )
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(functools.partial(run_trial, task=task), _resources(allocation)),
            tune_config=ray.tune.TuneConfig(
                search_alg=search,
                scheduler=scheduler,
                num_samples=search.num_missing,
                max_concurrent_trials=allocation.max_concurrent,
                time_budget_s=time_budget_s,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=ray.tune.RunConfig(
                name=name,
                storage_path=self.folder,
                verbose=0,
                callbacks=[recorder],
                failure_config=ray.tune.FailureConfig(max_failures=MAX_PROCESS_FAILURES),
                checkpoint_config=ray.tune.CheckpointConfig(
                    num_to_keep=2,  # and the latest: should the newest be damaged, the one before is there
                    checkpoint_score_attribute=recipe.search.metric,
                    checkpoint_score_order=direction(recipe.search.metric),
                ),
            ),
        )
        tuner.fit()


def _quiet_tune() -> None:
    """Settings that Tune reads from the environment of the driver."""
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # MLflow and the study record the trials
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial reports its reason, not the metric
        TUNE_DISABLE_SIGINT_HANDLER="1",  # Ctrl-C is ours: it must end the runs and say how to resume
        TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S="0",
        RAY_AIR_NEW_OUTPUT="0",
    )


def _resources(allocation: Allocation) -> ray.tune.PlacementGroupFactory:
    if allocation.num_workers > 1:
        return ray.tune.PlacementGroupFactory(
            [{"memory": 1}]
        )  # its Ray Train group holds the resources; none at all is refused
    bundle = {"CPU": float(allocation.cpus_per_worker), "GPU": allocation.gpus_per_worker}
    return ray.tune.PlacementGroupFactory([{name: amount for name, amount in bundle.items() if amount}])


def study_file(folder: str) -> Path:
    """The study's file: in `folder`, or on this machine when `folder` is elsewhere (object stores cannot append)."""
    local = local_path(folder)
    if local is None:
        return cache_folder() / "sweeps" / folder.rsplit("/", 1)[-1] / "study.journal"
    return local / "study.journal"


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
