"""Recording what trials report: in the study, in MLflow, and to whoever watches."""

from collections.abc import Callable
from typing import Any

import ray.tune
from ray.tune.experiment import Trial

from common.tracking import RunStatus, Tracker
from tune.run_writer import RunWriter
from tune.study import FAILURE, GROUP_CHECKPOINT, StudySearch, TrialRecord
from tune.train_loop import METRICS

OnUpdate = Callable[[TrialRecord], None]
"""Takes a trial that has started, reported or ended."""


def run_name(trial_number: int) -> str:
    """What a trial's MLflow run is called."""
    return f"trial-{trial_number}"


class TrialRecorder(ray.tune.Callback):
    """Writes what the trials report to the study and to MLflow; the driver alone does, so there is one writer."""

    def __init__(self, search: StudySearch, tracker: Tracker, parent_run_id: str, on_update: OnUpdate) -> None:
        self._search = search
        self._tracker = tracker
        self._writer = RunWriter(tracker)
        self._parent_run_id = parent_run_id
        self._on_update = on_update
        self._open_runs: dict[str, str] = {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Starts the trial's MLflow run, or continues it after an interruption."""
        record = self._search.record(trial.trial_id)
        run_id = record.run_id
        if run_id is None:
            run_id = self._tracker.start(run_name(record.number), parent_run_id=self._parent_run_id)
            self._search.record_run(trial.trial_id, run_id)
            self._writer.write(run_id, params=record.params)
        elif trial.trial_id not in self._open_runs:
            self._tracker.reopen(run_id)
        self._open_runs[trial.trial_id] = run_id
        self._update(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Records an epoch."""
        if FAILURE in result:
            return
        metrics = {name: float(result[name]) for name in METRICS if name in result}
        epoch = int(result["epoch"])
        self._search.record_epoch(trial.trial_id, {"epoch": epoch, **metrics})
        if GROUP_CHECKPOINT in result:
            self._search.record_checkpoint(trial.trial_id, epoch, result[GROUP_CHECKPOINT])
        self._writer.write(self._open_runs[trial.trial_id], metrics={epoch: metrics})
        self._update(trial)

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: ray.tune.Checkpoint, **info: Any
    ) -> None:
        """Records where the newest checkpoint is, and the best one."""
        self._search.record_checkpoint(trial.trial_id, int(trial.last_result["epoch"]), checkpoint.path)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run."""
        self._end_run(trial.trial_id, "FAILED" if FAILURE in trial.last_result else "FINISHED")
        self._update(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run as failed."""
        self._end_run(trial.trial_id, "FAILED")
        self._update(trial)

    def close(self, status: RunStatus) -> None:
        """Ends the runs of trials that still run (resuming reopens them) and waits until all is written.

        Raises:
            TrackingError: when the tracking server did not take all that there was to record.
        """
        for trial_id in list(self._open_runs):
            self._end_run(trial_id, status)
        self._writer.close()

    def _update(self, trial: Trial) -> None:
        self._on_update(self._search.record(trial.trial_id))

    def _end_run(self, trial_id: str, status: RunStatus) -> None:
        run_id = self._open_runs.pop(trial_id, None)
        if run_id:
            self._writer.write(run_id, status=status)
