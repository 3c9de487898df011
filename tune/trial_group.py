"""The Ray Train group of a process that runs trials: started once, it trains one trial after another.

A group of its own for each trial would be six new processes, most of which import torch: some ten seconds on two cores.
"""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
import ray.exceptions
import ray.util
from ray.train.v2.api.config import FailureConfig, RunConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.result import Result
from ray.train.v2.torch.torch_trainer import TorchTrainer

from common.errors import StorageError, TrainingError
from common.location import filesystem
from common.placement_groups import remove_orphans
from common.recipe import Train
from tune.allocation import Allocation
from tune.group_controller import Introduction
from tune.group_exchange import GroupEvent, GroupExchange, GroupTask
from tune.group_worker import serve_trials
from tune.train_group import MAX_FAILURES, MAX_STARTS, environment, reason, start, worker_group

OnGroupReport = Callable[[dict[str, float], str], None]
"""Takes an epoch's metrics and where its checkpoint is."""

LOOK_INTERVAL_S = 1.0
"""How often a group that says nothing is looked after."""

END_TIMEOUT_S = 10.0

EXCHANGE = "group-exchange-"
"""Begins the name of each group's exchange."""

_group: "TrialGroup | None" = None
"""Of this process."""


class GroupLostError(TrainingError):
    """The group has ended: it could not be started, or lost its workers more often than Ray Train replaces them."""


def train_in_group(
    task: GroupTask, settings: Train, allocation: Allocation, storage_path: str, on_report: OnGroupReport
) -> None:
    """Trains a trial in this process's group, which is started when there is none.

    When `on_report` raises, the workers stop the trial and wait for the next one, and the exception goes on. A group
    that is lost after other trials were trained in it is replaced, and the trial goes on from its newest checkpoint.

    Raises:
        ClusterError: the cluster cannot hold the workers.
        TrainingError: the training diverged, or failed more often than is retried.
        StorageError: a checkpoint could not be stored.
    """
    global _group
    newest = task

    def noting_the_newest(metrics: dict[str, float], checkpoint: str) -> None:
        nonlocal newest
        newest = replace(task, resume_from=checkpoint)
        on_report(metrics, checkpoint)

    if _group is not None:
        try:
            _group.train(newest, noting_the_newest)
            return
        except GroupLostError:
            _group = None
    _group = TrialGroup(settings, allocation, storage_path)
    try:
        _group.train(newest, noting_the_newest)
    except GroupLostError:
        _group = None
        raise


def end_groups() -> None:
    """Ends all groups of the driver's trials, whatever they do; runs in the driver.

    Ended in this way, Ray Train gives back what a group holds. When its controller is killed instead, the workers'
    placement group stays, and so does an actor that was to see to that.
    """
    exchanges = [ray.get_actor(name) for name in ray.util.list_named_actors() if name.startswith(EXCHANGE)]
    for exchange in exchanges:
        with suppress(ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
            controller: Any = ray.get(exchange.close.remote(), timeout=END_TIMEOUT_S)
            if controller is not None:
                ray.get(controller.abort.remote(), timeout=END_TIMEOUT_S)


class TrialGroup:
    """A running Ray Train group. It ends, at the latest, with this process, which owns it."""

    def __init__(self, settings: Train, allocation: Allocation, storage_path: str) -> None:
        workers = worker_group(settings, allocation.cpus_per_worker, use_gpu=allocation.use_gpu)
        remove_orphans()  # of a process like this one that has died: these workers wait for what it held
        os.environ.update(environment())
        name = uuid.uuid4().hex[:8]
        files, path = filesystem(storage_path)
        self._exchange: Any = ray.remote(num_cpus=0)(GroupExchange).options(name=f"{EXCHANGE}{name}").remote()
        self._run: Future[Result] = start(
            TorchTrainer(
                serve_trials,
                train_loop_config={"exchange": self._exchange},
                scaling_config=workers,
                run_config=RunConfig(
                    name=f"group-{name}",
                    storage_path=path,
                    storage_filesystem=files,
                    failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_STARTS),
                    callbacks=[Introduction(self._exchange)],  # type: ignore[list-item]  # internal ones are taken too
                ),
            )
        )

    def train(self, task: GroupTask, on_report: OnGroupReport) -> None:
        """Trains one trial.

        Raises:
            GroupLostError: the group has ended.
            TrainingError: the training diverged.
            StorageError: a checkpoint could not be stored.
        """
        self._ask(self._exchange.assign.remote(task))
        stopped_by: BaseException | None = None
        event: GroupEvent = self._ask(self._exchange.next_event.remote())
        while event.metrics is not None:
            if stopped_by is None:
                try:
                    on_report(event.metrics, str(event.checkpoint))
                except BaseException as error:
                    stopped_by = error
            self._ask(self._exchange.answer.remote(int(event.metrics["epoch"]), go_on=stopped_by is None))
            event = self._ask(self._exchange.next_event.remote())
        if stopped_by is not None:
            raise stopped_by
        if event.not_stored is not None:
            raise StorageError(event.not_stored)
        if event.failure is not None:
            raise TrainingError(event.failure)

    def _ask(self, pending: "ray.ObjectRef[Any]") -> Any:
        """What the exchange returns, unless the group ends before."""
        try:
            while not ray.wait([pending], timeout=LOOK_INTERVAL_S)[0]:
                if self._run.done():
                    self._run.result()
            return ray.get(pending)
        except TrainingFailedError as error:
            raise GroupLostError(reason(error)) from error
        except ray.exceptions.RayActorError as error:
            raise GroupLostError(f"the process that speaks with the workers died: {error}") from error
