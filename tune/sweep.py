"""The search: Ray Tune runs the trials, Optuna suggests them, ASHA stops the unpromising ones.

A sweep lives in one folder: `study.journal` (the study, see `tune.study`), `trials/` and `confirm/` (checkpoints).
Running it again with the same folder continues it.
"""

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from common.errors import TrackingError, TrainingError
from common.provenance import DATA_TAG
from common.recipe import Recipe
from common.search_range import Point
from common.search_settings import Search
from common.system_metrics import system_metrics
from common.tokenised import PreparedData
from common.tracking import DatasetInput, Tracker
from common.wandb_runs import WandbRuns
from tune.allocation import Allocation
from tune.confirm import ConfirmationSearch, crowned, fresh_seeds, representative
from tune.identity import refuse_changes
from tune.recorder import OnUpdate, TrialRecorder
from tune.run_recovery import recover_runs
from tune.scheduler import make_scheduler, replay
from tune.study import StudySearch, TrialRecord, journal, leaderboard
from tune.study_place import fetch_study, kept_in
from tune.trial import TrialTask, run_trial
from tune.trial_group import end_groups
from tune.tuner import run_trials

SWEEP_TAG = "tuneserve.sweep"
"""MLflow tag of a sweep's run: the sweep's id."""


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
    wandb: WandbRuns | None = None,
    tags: Mapping[str, str] | None = None,
) -> SweepResult:
    """Runs the recipe's search to its end, or continues the one that `folder` holds.

    `on_update` is called in this process with every trial that an earlier driver left, and with each trial that starts,
    reports or ends.
    `points` are tried first. `wandb`, which has a run for the sweep, gets the trials as MLflow does;
    the sweep's own MLflow run gets `tags`.

    Raises:
        InputError: when `folder` holds a sweep of another recipe or of other data.
        TrainingError: when no trial finished an epoch.
        StorageError: when `folder` can no longer be written; the sweep can be continued.
    """
    started = time.monotonic()
    storage = journal(fetch_study(folder))
    search = StudySearch(recipe.search, name=sweep_id, storage=storage, epochs=recipe.train.epochs)
    refuse_changes(search, recipe, prepared.data_digest, prepared.storage)
    with kept_in(folder), ExitStack() as stack:
        search.describe(recipe_yaml, prepared.uri)
        run_id = _parent_run(search, tracker, sweep_id, recipe, prepared, recipe_yaml, tags or {})
        if recipe.tracking.system_metrics:
            stack.enter_context(system_metrics(tracker, run_id))
        driver = _Driver(recipe, prepared, folder, allocation, tracker, run_id, on_update, wandb)
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
        trials = [trials[0], *(trial.without_checkpoints() for trial in trials[1:])]
        runs: list[TrialRecord] = []
        best = trials[0]
        if recipe.search.confirm is not None:
            seeds = fresh_seeds(recipe, recipe.search.confirm)
            leaders = [
                trial for trial in trials[: recipe.search.confirm.top] if trial.metrics and trial.state != "failed"
            ]
            confirmation = ConfirmationSearch(recipe, name=sweep_id, storage=storage, leaders=leaders, seeds=seeds)
            driver.confirm(confirmation, started)
            runs = confirmation.records()
            trials = crowned(trials, runs, seeds, recipe.search.metric)
            best = representative(trials[0], runs, seeds, recipe.search.metric)
        tracker.log_metrics(run_id, best.metrics, step=0)
        tracker.finish(run_id, "FINISHED")
        if wandb is not None:
            wandb.log(sweep_id, best.metrics, step=0)
        return SweepResult(sweep_id, tuple(trials), tuple(runs), best, run_id, time.monotonic() - started)


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
    wandb: WandbRuns | None

    @property
    def tags(self) -> dict[str, str]:
        """Of every trial's run."""
        return {DATA_TAG: self.prepared.data_digest}

    def search(self, search: StudySearch) -> None:
        """Runs the trials that are missing."""
        self._take_over(search)
        scheduler = make_scheduler(self.recipe, self.recipe.max_epochs)
        replay(scheduler, search.records(), self.recipe.search.metric)
        self._run(search, "trials", scheduler, search_budget_s(self.recipe.search))

    def confirm(self, search: ConfirmationSearch, started: float) -> None:
        """Trains the leaders in full with fresh seeds, in what is left of the time budget since `started`."""
        self._take_over(search)
        budget_s = self.recipe.search.time_budget_s
        left_s = None if budget_s is None else max(started + budget_s - time.monotonic(), 1.0)
        self._run(search, "confirm", FIFOScheduler(), left_s)

    def _take_over(self, search: StudySearch) -> None:
        """Completes what an earlier driver left half written, and shows what it left."""
        recover_runs(search, self.tracker, self.run_id, self.tags)
        search.settle(self.tracker.finish)
        for record in search.records():
            self.on_update(record)

    def _run(
        self,
        search: StudySearch,
        name: str,
        scheduler: TrialScheduler,
        time_budget_s: float | None,
    ) -> None:
        if search.num_missing <= 0:
            return
        recorder = TrialRecorder(search, self.tracker, self.run_id, self.on_update, self.wandb, self.tags)
        try:
            self._tune(search, name, scheduler, time_budget_s, recorder)
            search.end_unfinished()
            recorder.close("FINISHED")
        except BaseException:
            with suppress(TrackingError):  # what ended the sweep is what people must hear of
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
        recipe, allocation = self.recipe, self.allocation
        lora, metric, groups = recipe.model.lora, recipe.search.metric, f"{self.folder}/groups"
        task = TrialTask(self.prepared.uri, recipe.train, lora, metric, allocation, groups)
        run_trials(
            functools.partial(run_trial, task=task),
            search=search,
            scheduler=scheduler,
            recorder=recorder,
            folder=self.folder,
            name=name,
            resources=_resources(allocation),
            max_concurrent=allocation.max_concurrent,
            time_budget_s=time_budget_s,
            on_end=end_groups,
        )


def _resources(allocation: Allocation) -> dict[str, float]:
    if allocation.num_workers > 1:
        return {"memory": 1}  # its Ray Train group holds the resources; none at all is refused
    bundle = {"CPU": float(allocation.cpus_per_worker), "GPU": allocation.gpus_per_worker}
    return {name: amount for name, amount in bundle.items() if amount}


def _parent_run(
    search: StudySearch,
    tracker: Tracker,
    sweep_id: str,
    recipe: Recipe,
    prepared: PreparedData,
    recipe_yaml: str,
    tags: Mapping[str, str],
) -> str:
    """Starts the sweep's MLflow run, or finds the one an earlier driver started."""
    known = search.study.user_attrs.get("run_id")
    if known:
        tracker.reopen(known)
        return str(known)
    params = {"num_trials": recipe.search.num_trials, "metric": recipe.search.metric}
    dataset = DatasetInput(recipe.name, prepared.data_digest, recipe.data.source, prepared.num_rows)
    # One that a driver started, but was killed before it could note that.
    found = tracker.find_runs({SWEEP_TAG: sweep_id})
    run_id = found[0] if found else tracker.start(sweep_id, tags={**tags, SWEEP_TAG: sweep_id})
    tracker.describe(run_id, params=params, recipe_yaml=recipe_yaml, dataset=dataset)
    search.study.set_user_attr("run_id", run_id)
    return run_id
