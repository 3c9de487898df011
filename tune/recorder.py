"""Recording what trials report: in the study, in MLflow, and to whoever watches."""

import logging
from collections.abc import Callable
from typing import Any

import ray.tune
from ray.tune.experiment import Trial

from common.tracking import RunStatus, Tracker
from tune.checkpoint import discard, keep_only
from tune.run_writer import RunWriter
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED, StudySearch, TrialRecord, leaderboard
from tune.train_loop import METRICS

logger = logging.getLogger(__name__)

CONFIRMS_TAG = "tuneserve.confirms"
"""MLflow tag of a run that confirms: the number of the trial whose configuration it repeats."""

OnUpdate = Callable[[TrialRecord], None]
"""Takes a trial that has started, reported or ended."""


class TrialRecorder(ray.tune.Callback):
    """Writes what the trials report to the study and to MLflow; the driver alone does, so there is one writer."""

    def __init__(self, search: StudySearch, tracker: Tracker, parent_run_id: str, on_update: OnUpdate) -> None:
        self._search = search
        self._tracker = tracker
        self._writer = RunWriter(tracker)
        self._parent_run_id = parent_run_id
        self._on_update = on_update
        self._open_runs: dict[str, str] = {}
        self.not_stored: str | None = None
        """Why a checkpoint could not be stored; the sweep cannot go on."""
        ended = [record for record in search.records() if record.state != "running" and record.checkpoint]
        self._leader = [record for record in leaderboard(ended, search.metric)[:1] if record.state != "failed"]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Starts the trial's MLflow run, or continues it after an interruption."""
        record = self._search.record(trial.trial_id)
        run_id = record.run_id
        if run_id is None:
            tags = {} if record.seed is None else {CONFIRMS_TAG: str(record.number)}
            run_id = self._tracker.start(record.name, tags=tags, parent_run_id=self._parent_run_id)
            self._search.record_run(trial.trial_id, run_id)
            self._writer.write(run_id, params=record.settings)
        elif trial.trial_id not in self._open_runs:
            self._tracker.reopen(run_id)
        self._open_runs[trial.trial_id] = run_id
        self._update(trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Records an epoch."""
        self.not_stored = result.get(NOT_STORED)
        if FAILURE in result or NOT_STORED in result:
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
        """Ends the trial's MLflow run; of the checkpoints of all ended trials that of the best stays."""
        self._tidy(self._search.record(trial.trial_id), GROUP_CHECKPOINT in trial.last_result)
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

    def _tidy(self, ended: TrialRecord, in_group: bool) -> None:
        if ended.checkpoint is None:
            return
        first, *superseded = leaderboard(sorted([*self._leader, ended], key=_number), self._search.metric)
        if self._search.keeps_all_checkpoints:
            superseded = []
        self._leader = [first] if first.state != "failed" else []
        try:
            if not in_group:
                keep_only(ended.checkpoint)
            for trial in [*superseded, *([] if self._leader else [first])]:
                discard(str(trial.checkpoint))
        except OSError as error:
            logger.warning("checkpoints that are not needed stay: %s", error)

    def _update(self, trial: Trial) -> None:
        self._on_update(self._search.record(trial.trial_id))

    def _end_run(self, trial_id: str, status: RunStatus) -> None:
        run_id = self._open_runs.pop(trial_id, None)
        if run_id:
            self._writer.write(run_id, status=status)


def _number(record: TrialRecord) -> int:
    return record.number
