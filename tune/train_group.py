"""How a Ray Train worker group is set up, and what it says when it fails."""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import cast

from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError
from ray.train.v2.api.result import Result
from ray.train.v2.torch.torch_trainer import TorchTrainer

from common.cluster import resources
from common.errors import ClusterError
from common.recipe import Train

MAX_FAILURES = 3
"""Lost workers that a run survives; Ray counts preempted nodes apart, without limit."""

MAX_STARTS = 10
"""Times (a minute each) that a run waits for resources that others hold."""

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s unless set; start, reports and end each wait for it
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}


def worker_group(settings: Train, cpus_per_worker: int, *, use_gpu: bool) -> ScalingConfig:
    """The workers of a fine-tuning, as Ray Train wants them.

    Raises:
        ClusterError: the cluster cannot hold the fewest workers.
    """
    per_worker = {"CPU": float(cpus_per_worker)} | ({"GPU": settings.gpus_per_worker} if use_gpu else {})
    _check_room(settings, per_worker)
    workers = settings.num_workers
    num_workers = workers.max if workers.min == workers.max else (workers.min, workers.max)
    return ScalingConfig(
        num_workers=num_workers,
        use_gpu=use_gpu,
        resources_per_worker=per_worker,
        placement_strategy=settings.placement.upper(),
    )


def _check_room(settings: Train, per_worker: Mapping[str, float]) -> None:
    needed = settings.num_workers.min
    nodes = resources().nodes
    offers = [{"CPU": node.num_cpus, "GPU": node.num_gpus} for node in nodes]
    room = sum(int(min(offer[kind] / amount for kind, amount in per_worker.items())) for offer in offers)
    if room < needed:
        unit = " and ".join(f"{amount:g} {kind}" for kind, amount in per_worker.items())
        has = ", ".join(f"{sum(offer[kind] for offer in offers):g} {kind}" for kind in ("CPU", "GPU"))
        raise ClusterError(
            f"train.num_workers {needed} with {unit} a worker does not fit the cluster: it has room for {room} "
            f"({has} on {len(nodes)} node(s)). Lower train.num_workers or start a larger cluster."
        )


def environment() -> dict[str, str]:
    """What Ray Train reads from the environment of the process that starts a run, where the user has not set it."""
    chosen = dict(ENVIRONMENT)
    if len(resources().nodes) == 1:
        chosen["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # one process less: with the node all would go anyway
    return {name: value for name, value in chosen.items() if name not in os.environ}


def start(trainer: TorchTrainer) -> "Future[Result]":
    """Runs a trainer in a thread of its own.

    In the main thread Ray would take over Ctrl-C and turn it into exit code 0; and Tune stops a trial by raising in
    the thread that reports.
    """
    run: Future[Result] = Future()
    threading.Thread(target=_run, args=(trainer, run), daemon=True, name="ray-train").start()
    return run


def _run(trainer: TorchTrainer, run: "Future[Result]") -> None:
    try:
        run.set_result(cast(Result, trainer.fit()))
    except BaseException as error:
        run.set_exception(error)


def reason(error: TrainingFailedError) -> str:
    """One line from the first cause."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, cause = min(error.worker_failures.items())
        return f"training failed {MAX_FAILURES + 1} times, last in worker {rank}: {_last_line(cause)}"
    if isinstance(error, ControllerError):
        cause = error.controller_failure
    return f"training could not be run: {_last_line(cause)}"


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"
