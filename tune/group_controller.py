"""What the controller of a trials' group does for us; it imports this module, which therefore stays light."""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.context import TrainRunContext


class Introduction(ControllerCallback):
    """Lets the exchange know the controller, by which a group is ended from outside.

    Ray's public `UserCallback` does not run when a controller starts.
    """

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Runs in the controller."""
        self._exchange.introduce.remote(ray.get_runtime_context().current_actor)
