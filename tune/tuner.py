"""How a sweep drives Ray Tune: the same whatever its trials do."""

from collections.abc import Callable, Mapping
from typing import Any

import ray.tune
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Experiment
from ray.tune.registry import get_trainable_cls
from ray.tune.schedulers import TrialScheduler

from common.errors import StorageError
from common.location import filesystem
from common.metrics import direction
from common.placement_groups import remove_orphans
from tune.neighbours import Neighbours
from tune.recorder import TrialRecorder
from tune.study import StudySearch
from tune.suggestions import Suggestions, SweepTrial
from tune.time_budget import TimeBudget

Trainable = Callable[[Mapping[str, Any]], None]
"""A trial: takes what `StudySearch.suggest` returns and reports with `ray.tune.report`."""

MAX_PROCESS_FAILURES = 3
"""How often a trial is continued elsewhere after its process or node died."""


def run_trials(
    trainable: Trainable,
    *,
    search: StudySearch,
    scheduler: TrialScheduler,
    recorder: TrialRecorder,
    folder: str,
    name: str,
    resources: Mapping[str, float],
    max_concurrent: int,
    time_budget_s: float | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Runs the trials that a search misses, or until the time budget ends; leaves no actor and no placement group.

    Args:
        trainable: What each trial runs.
        search: Suggests the trials' parameters and records how they end.
        scheduler: Stops the unpromising ones.
        recorder: Records what they report.
        folder: Path or URL of the sweep.
        name: Folder below that for the trials' checkpoints.
        resources: What a trial's process holds of the cluster.
        max_concurrent: Trials at once.
        time_budget_s: No new trial starts and running ones end after this long.
        on_end: Runs here, however the sweep ends, before the trials' processes are ended.

    Raises:
        StorageError: when checkpoints or the study can no longer be written.
    """
    files, path = filesystem(folder)
    experiment = Experiment(name, trainable, storage_path=path, storage_filesystem=files)
    process = get_trainable_cls(experiment.run_identifier)
    held = ray.tune.PlacementGroupFactory([dict(resources)])
    checkpoints = ray.tune.CheckpointConfig(
        num_to_keep=2,  # and the latest: should the newest be damaged, the one before is there
        checkpoint_score_attribute=search.metric,
        checkpoint_score_order=direction(search.metric),
    )

    def make_trial(trial_id: str, config: dict[str, Any]) -> SweepTrial:
        return SweepTrial(
            process,
            experiment.run_identifier,
            trial_id=trial_id,
            config=config,
            storage=experiment.storage,
            placement_group_factory=held,
            checkpoint_config=checkpoints,
            trial_dirname_creator=lambda trial: trial.trial_id,
            max_failures=MAX_PROCESS_FAILURES,
        )

    controller: Any = _Controller(
        search_alg=Suggestions(search, make_trial, num_trials=search.num_missing, max_concurrent=max_concurrent),
        scheduler=scheduler,
        stopper=None if time_budget_s is None else TimeBudget(time_budget_s),
        callbacks=[recorder],
        storage=experiment.storage,
        reuse_actors=True,
        neighbours=Neighbours(),
    )
    controller.update_max_pending_trials(max_concurrent)
    try:
        while not controller.is_finished():
            controller.step()
            if recorder.not_stored is not None:
                raise _storage_error(folder, recorder.not_stored)
    except ray.tune.TuneError as error:
        if (cause := _os_error(error)) is None:
            raise
        raise _storage_error(folder, cause) from error
    finally:
        try:
            on_end()
        finally:
            controller.release()


def _storage_error(folder: str, cause: object) -> StorageError:
    return StorageError(
        f"{folder} cannot be written: {cause}. Nothing that was recorded is lost: free space or mend the storage, then "
        "run the same command again (a sweep with --resume)"
    )


def _os_error(error: BaseException | None) -> OSError | None:
    """What the study's file raised: Tune wraps whatever comes from its searcher and callbacks."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


class _Controller(TuneController):
    """Tune's event loop, without what a sweep does not need of it.

    `ray.tune.Tuner` runs the same loop, and around it: it writes the state of all trials after each of their
    checkpoints (the study is our record), keeps 55 KB of every trial that has ended and looks through all of them at
    every event, and leaves actors and placement groups behind when it is interrupted.
    """

    def __init__(self, *, neighbours: Neighbours, **settings: Any) -> None:
        super().__init__(**settings)
        self._neighbours = neighbours

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Writes nothing."""

    def _mark_trial_to_checkpoint(self, trial: Any) -> None:
        """Notes nothing to write."""

    def _validate_result_metrics(self, result: Any) -> None:
        """Takes any result: a failed trial reports its reason, not the metric."""

    def on_step_end(self) -> None:
        """Forgets the trials that have ended."""
        super().on_step_end()  # type: ignore[no-untyped-call]
        ended = self._stopped_trials | self._failed_trials
        if ended:
            self._trials = [trial for trial in self._trials if trial not in ended]
            self._live_trials -= ended
            self._stopped_trials.clear()
            self._failed_trials.clear()

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        """Leaves a trial to the process that is starting for it.

        Tune gives it the first one that gets free and ends the new one. Where trials take less time than a process
        does to start, as a sweep's first ones may, it never gets beyond one process.
        """
        own = self._trial_to_actor.get(trial)
        if own is not None and self._actor_manager.is_actor_started(own):
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))

    def _maybe_update_trial_queue(self) -> None:
        """Begins no trial while room is made for another job."""
        if not self._makes_room():
            super()._maybe_update_trial_queue()  # type: ignore[no-untyped-call]

    def _maybe_add_actors(self) -> None:
        """Starts no process while room is made for another job, and waits for none: what gets free is for that job."""
        if not self._makes_room():
            super()._maybe_add_actors()
            return
        for trial in list(self._pending_trials):
            process = self._trial_to_actor.get(trial)
            if process is None or process in self._started_actors:
                continue
            self._trial_to_actor.pop(trial)
            self._actor_to_trial.pop(process)
            self._remove_actor(process)
            self._unstage_trial_with_resources(trial)
            self._pending_trials_list.append(trial)
        self._cleanup_cached_actors(force_all=True)
        remove_orphans()

    def _maybe_cache_trial_actor(self, trial: Any) -> bool:
        """Keeps a trial's process for the next one, unless another job waits for room."""
        return not self._makes_room() and bool(super()._maybe_cache_trial_actor(trial))

    def _makes_room(self) -> bool:
        return self._neighbours.make_room(len(self._started_actors))

    def release(self) -> None:
        """Ends the trials' processes at once, and gives back what they held of the cluster."""
        self._actor_manager.cleanup()
