"""Recording what trials report: in the study, in MLflow, and to whoever watches."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import ray.tune
from ray.tune.experiment import Trial

from common.location import location_of
from common.tracking import RunStatus, Tracker
from common.wandb_runs import WandbRuns
from tune.checkpoint import discard, keep_only
from tune.run_writer import RunWriter
from tune.step_losses import STEP_LOSS, step_losses
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED, StudySearch, TrialRecord, leaderboard
from tune.train_loop import METRICS

logger = logging.getLogger(__name__)

CONFIRMS_TAG = "tuneserve.confirms"
"""MLflow tag of a run that confirms: the number of the trial whose configuration it repeats."""

OnUpdate = Callable[[TrialRecord], None]
"""Takes a trial that has started, reported or ended."""


class TrialRecorder(ray.tune.Callback):
    """Writes what the trials report to the study, to MLflow and to W&B if asked to.

    The driver alone does, so there is one writer.
    """

    def __init__(
        self,
        search: StudySearch,
        tracker: Tracker,
        parent_run_id: str,
        on_update: OnUpdate,
        wandb: WandbRuns | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """`tags` are those that every trial's MLflow run gets."""
        self._search = search
        self._wandb = wandb
        self._tags = tags or {}
        self._writer = RunWriter(tracker, parent_run_id, search.record_run)
        self._on_update = on_update
        self._running: dict[str, str] = {}
        """The name of each Tune trial that has not ended."""
        self.not_stored: str | None = None
        """Why a checkpoint could not be stored; the sweep cannot go on."""
        ended = [record for record in search.records() if record.state != "running" and record.checkpoint]
        self._leader = [record for record in leaderboard(ended, search.metric)[:1] if record.state != "failed"]

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Starts the trial's MLflow run, or continues it after an interruption."""
        record = self._search.record(trial.trial_id)
        if trial.trial_id not in self._running:  # or Tune has moved it to another process
            self._running[trial.trial_id] = record.name
            if record.run_id is None:
                self._writer.start(record.name, record.settings, {**self._tags, **run_tags(record)})
            else:
                self._writer.reopen(record.name, record.run_id)
            self._start_in_wandb(record)
        self._on_update(record)

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
        name = self._running[trial.trial_id]
        self._writer.log(name, metrics, epoch)
        if self._wandb is not None:
            self._wandb.log(name, {"epoch": epoch, **metrics}, epoch)
        losses = step_losses(result)
        if losses and self._search.record_step_losses(trial.trial_id, epoch, losses):
            for step, loss in losses.items():
                self._writer.log(name, {STEP_LOSS: loss}, step)
        self._update(trial)

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: ray.tune.Checkpoint, **info: Any
    ) -> None:
        """Records where the newest checkpoint is, and the best one."""
        path = trial.last_result.get(GROUP_CHECKPOINT) or location_of(checkpoint.filesystem, checkpoint.path)
        self._search.record_checkpoint(trial.trial_id, int(trial.last_result["epoch"]), path)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run; of the checkpoints of all ended trials that of the best stays."""
        self._tidy(self._search.record(trial.trial_id))
        self._end(trial.trial_id, "FAILED" if FAILURE in trial.last_result else "FINISHED")
        self._update(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run as failed."""
        self._end(trial.trial_id, "FAILED")
        self._update(trial)

    def close(self, status: RunStatus) -> None:
        """Ends the runs of trials that still run (resuming reopens them) and waits until all is written.

        Raises:
            TrackingError: when the tracking server did not take all that there was to record.
        """
        for trial_id in list(self._running):
            self._end(trial_id, status)
        self._writer.close()

    def _tidy(self, ended: TrialRecord) -> None:
        if ended.checkpoint is None:
            return
        first, *superseded = leaderboard(sorted([*self._leader, ended], key=_number), self._search.metric)
        if self._search.keeps_all_checkpoints:
            superseded = []
        self._leader = [first] if first.state != "failed" else []
        try:
            keep_only(ended.checkpoint)
            for trial in [*superseded, *([] if self._leader else [first])]:
                discard(str(trial.checkpoint))
        except OSError as error:
            logger.warning("checkpoints that are not needed stay: %s", error)

    def _start_in_wandb(self, record: TrialRecord) -> None:
        """A trial that goes on gives its epochs again: whatever ended the driver before may have kept some back."""
        if self._wandb is None:
            return
        config = {**record.settings, **({} if record.seed is None else {"confirms": record.number})}
        self._wandb.start(record.name, job_type="trial", config=config)
        for epoch in record.history:
            self._wandb.log(record.name, epoch, int(epoch["epoch"]))

    def _update(self, trial: Trial) -> None:
        self._on_update(self._search.record(trial.trial_id))

    def _end(self, trial_id: str, status: RunStatus) -> None:
        name = self._running.pop(trial_id, None)
        if name is not None:
            self._writer.end(name, status)
            if self._wandb is not None:
                self._wandb.end(name, failed=status != "FINISHED")


def run_tags(record: TrialRecord) -> dict[str, str]:
    """The MLflow tags of a trial's run, beside those that all have."""
    return {} if record.seed is None else {CONFIRMS_TAG: str(record.number)}


def _number(record: TrialRecord) -> int:
    return record.number
