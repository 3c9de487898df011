"""From Ray Train's controller process to the process that called `fit`: what each epoch reported, as it ends.

Ray Train puts its controller on the node of the process that starts it, so a file on that node's disk is the channel.
This module is imported by the controller and stays light.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

REPORTS_FILE = "reports.jsonl"
CONTROLLER_FILE = "controller.pickle"


class EpochRelay(ControllerCallback, ReportCallback):
    """Runs in the controller.

    Ray's public `UserCallback` would do for the reports; the controller's handle, with which a run is ended from
    outside, is there for internal callbacks only.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Leaves the controller's handle."""
        partial = self._folder / f"{CONTROLLER_FILE}.partial"
        partial.write_bytes(pickle.dumps(ray.get_runtime_context().current_actor))
        partial.rename(self._folder / CONTROLLER_FILE)

    def after_report(self, training_report: _TrainingReport, metrics: list[dict[str, Any]]) -> None:
        """Adds rank 0's metrics as a line."""
        with (self._folder / REPORTS_FILE).open("a") as file:
            file.write(json.dumps(metrics[0]) + "\n")


class EpochInbox:
    """The other end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._position = 0

    def receive(self) -> list[dict[str, float]]:
        """What was reported since the last call; a line that is being written waits for the next one."""
        file = self._folder / REPORTS_FILE
        if not file.exists():
            return []
        with file.open("rb") as lines:
            lines.seek(self._position)
            complete = lines.read().rpartition(b"\n")[0]
        if not complete:
            return []
        self._position += len(complete) + 1
        return [json.loads(line) for line in complete.splitlines()]

    def controller(self) -> "ActorHandle[Any] | None":
        """The controller's handle, once it runs."""
        file = self._folder / CONTROLLER_FILE
        return pickle.loads(file.read_bytes()) if file.exists() else None
