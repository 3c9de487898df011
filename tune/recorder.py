"""Recording what trials report: in the study, in MLflow, and to whoever watches."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import ray.tune
from ray.tune.experiment import Trial

from common.errors import TrackingError
from common.tracking import RunStatus, Tracker
from tune.checkpoint import keep_only
from tune.study import FAILURE, GROUP_CHECKPOINT, StudySearch, TrialRecord, is_better
from tune.train_loop import METRICS

logger = logging.getLogger(__name__)

CONFIRMS_TAG = "tuneserve.confirms"
"""MLflow tag of a run that confirms: the number of the trial whose configuration it repeats."""

OnUpdate = Callable[[Sequence[TrialRecord]], None]


class TrialRecorder(ray.tune.Callback):
    """Writes what the trials report to the study and to MLflow; the driver alone does, so there is one writer."""

    def __init__(self, search: StudySearch, tracker: Tracker, parent_run_id: str, on_update: OnUpdate) -> None:
        self._search = search
        self._tracker = tracker
        self._parent_run_id = parent_run_id
        self._on_update = on_update
        self._open_runs: dict[str, str] = {}
        self._waiting: list[Callable[[], None]] = []

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Starts the trial's MLflow run, or continues it after an interruption."""
        optuna_trial = self._search.trial(trial.trial_id)
        run_id = optuna_trial.user_attrs.get("run_id")
        if run_id is None:
            record = self._search.record(trial.trial_id)
            run_id = self._tracker.start(
                record.name,
                params=record.settings,
                tags={} if record.seed is None else {CONFIRMS_TAG: str(record.number)},
                parent_run_id=self._parent_run_id,
            )
            optuna_trial.set_user_attr("run_id", run_id)
        elif trial.trial_id not in self._open_runs:
            self._tracker.reopen(run_id)
        self._open_runs[trial.trial_id] = run_id
        self._on_update(self._search.records())

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Records an epoch."""
        if FAILURE in result:
            return
        metrics = {name: float(result[name]) for name in METRICS if name in result}
        epoch = int(result["epoch"])
        optuna_trial = self._search.trial(trial.trial_id)
        history = dict(optuna_trial.user_attrs.get("history", {}))
        history[str(epoch)] = {"epoch": epoch, **metrics}
        optuna_trial.set_user_attr("history", history)
        if GROUP_CHECKPOINT in result:
            self._record_checkpoint(trial.trial_id, result[GROUP_CHECKPOINT], result)
        run_id = self._open_runs[trial.trial_id]
        self._track(lambda: self._tracker.log_metrics(run_id, metrics, step=epoch))
        self._on_update(self._search.records())

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: ray.tune.Checkpoint, **info: Any
    ) -> None:
        """Records where the newest checkpoint is, and the best one."""
        self._record_checkpoint(trial.trial_id, checkpoint.path, trial.last_result)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run; of its checkpoints the best stays."""
        record = self._search.record(trial.trial_id)
        if record.checkpoint is not None and GROUP_CHECKPOINT not in trial.last_result:
            try:
                keep_only(record.checkpoint)
            except OSError as error:
                logger.warning("the spare checkpoints of %s stay: %s", record.name, error)
        self._finish(trial.trial_id, "FAILED" if FAILURE in trial.last_result else "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Ends the trial's MLflow run as failed."""
        self._finish(trial.trial_id, "FAILED")

    def close(self, status: RunStatus) -> None:
        """Ends the runs of trials that still run; resuming reopens them.

        Raises:
            TrackingError: when the tracking server did not take all that there was to record.
        """
        for trial_id in list(self._open_runs):
            self._end_run(trial_id, status)
        for operation in self._waiting:
            operation()

    def _finish(self, trial_id: str, status: RunStatus) -> None:
        self._end_run(trial_id, status)
        self._on_update(self._search.records())

    def _end_run(self, trial_id: str, status: RunStatus) -> None:
        run_id = self._open_runs.pop(trial_id, None)
        if run_id:
            self._track(lambda: self._tracker.finish(run_id, status))

    def _track(self, operation: Callable[[], None]) -> None:
        """Records something in MLflow, after what could not be recorded before; what fails now waits.

        An error here would make Tune fail and repeat a trial that has nothing to do with it.
        """
        self._waiting.append(operation)
        try:
            while self._waiting:
                self._waiting[0]()
                self._waiting.pop(0)
        except TrackingError as error:
            logger.warning("%d records wait for the tracking server: %s", len(self._waiting), error)

    def _record_checkpoint(self, trial_id: str, path: str, metrics: dict[str, Any]) -> None:
        metric = self._search.metric
        optuna_trial = self._search.trial(trial_id)
        best = optuna_trial.user_attrs.get("best")
        if best is None or is_better(metric, float(metrics[metric]), best):
            if best is not None:
                optuna_trial.set_user_attr("second_checkpoint", optuna_trial.user_attrs.get("checkpoint"))
            optuna_trial.set_user_attr("best", float(metrics[metric]))
            optuna_trial.set_user_attr("checkpoint", path)
            optuna_trial.set_user_attr("best_epoch", int(metrics["epoch"]))
        optuna_trial.set_user_attr("latest_checkpoint", path)
        optuna_trial.set_user_attr("latest_epoch", int(metrics["epoch"]))
