"""One fine-tuning under Ray Train: data-parallel, retried, resumed by its name."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.exceptions
import ray.train
from ray.actor import ActorHandle
from ray.train.v2.api.config import CheckpointConfig, FailureConfig, RunConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.api.result import Result
from ray.train.v2.torch.torch_trainer import TorchTrainer

from common.errors import InputError, TrainingError
from common.location import filesystem
from common.metrics import direction
from common.recipe import Lora, Train
from common.tokenised import PreparedData, local_base_model, local_folder
from tune.checkpoint import damage_on
from tune.epoch_relay import EpochInbox, EpochRelay
from tune.step_losses import of_the_epoch
from tune.train_group import MAX_FAILURES, MAX_STARTS, environment, reason, start, worker_group
from tune.train_loop import HISTORY_FILE, TrainLoopConfig, train

logger = logging.getLogger(__name__)

OnReport = Callable[[dict[str, float]], None]

POLL_S = 0.1
ABORT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class TrainResult:
    """A finished fine-tuning."""

    metrics: dict[str, float]
    """Of the best epoch, as `tune.train_loop` reports them."""
    checkpoint: str
    """Folder (path or URI) of that epoch's checkpoint."""
    history: tuple[dict[str, float], ...]
    """All epochs' metrics, also those before an interruption."""
    seconds: float
    """Training and validation, over all attempts that count."""


def loop_config(
    prepared: PreparedData, settings: Train, num_threads: int | None, lora: Lora | None = None
) -> TrainLoopConfig:
    """What the train loop needs on this machine; fetches the prepared data here if they are elsewhere."""
    return TrainLoopConfig(
        data_folder=str(local_folder(prepared)),
        base_model=local_base_model(prepared),
        labels=prepared.labels,
        pad_token_id=prepared.pad_token_id,
        num_threads=num_threads,
        lora=lora,
        new_head=prepared.new_head,
        **settings.of_the_loop(),
    )


def checkpoint_uri(storage_path: str, run_name: str, epoch: float) -> str:
    """Where the checkpoint of an epoch (from 1) lies, as long as it is kept: the best and the last are."""
    return f"{storage_path.rstrip('/')}/{run_name}/epoch-{int(epoch):04d}"


def fit(
    prepared: PreparedData,
    settings: Train,
    *,
    metric: str,
    run_name: str,
    storage_path: str,
    cpus_per_worker: int,
    on_report: OnReport,
    use_gpu: bool,
    lora: Lora | None = None,
) -> TrainResult:
    """Fine-tunes with Ray Train on the cluster that this process is connected to.

    A run that was interrupted continues when it is called again with the same storage path and name; a finished one
    returns its result at once. So the name must stand for the settings. When `on_report` or a signal raises, the
    workers are ended and the exception goes on.

    Args:
        prepared: The data.
        settings: Of the fine-tuning. With `num_workers.min < max` training is elastic.
        metric: Says which epoch is the best.
        run_name: Folder below `storage_path` that holds the run.
        storage_path: Absolute path or URI that all nodes can write to.
        cpus_per_worker: CPUs and threads of a worker.
        on_report: Called here as each epoch ends, with what the train loop reported; not for epochs of earlier calls.
        lora: Of the adapters to train; None trains the whole model.
        use_gpu: Whether workers hold `settings.gpus_per_worker` GPUs each.

    Raises:
        ClusterError: the cluster cannot hold the workers; raised before anything starts.
        TrainingError: the training diverged, or failed more often than is retried.
    """
    location = f"{storage_path.rstrip('/')}/{run_name}"
    earlier = _stored_result(location)
    if earlier is not None and len(_history(earlier)) >= settings.epochs:
        return _summary(earlier, metric, location)
    workers = worker_group(settings, cpus_per_worker, use_gpu=use_gpu)
    files, path = filesystem(storage_path)
    with tempfile.TemporaryDirectory(prefix="train-reports-") as folder, _set(environment()):
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={
                "prepared_uri": prepared.uri,
                "settings": settings.model_copy(update={"use_gpu": use_gpu}).model_dump(),
                "num_threads": cpus_per_worker,
                "lora": lora and lora.model_dump(),
            },
            scaling_config=workers,
            run_config=RunConfig(
                name=run_name,
                storage_path=path,
                storage_filesystem=files,
                failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_STARTS),
                # Ray keeps the last checkpoint beside the best ones; should it be damaged, the one before is there.
                checkpoint_config=CheckpointConfig(
                    num_to_keep=2, checkpoint_score_attribute=metric, checkpoint_score_order=direction(metric)
                ),
                callbacks=[EpochRelay(Path(folder))],  # type: ignore[list-item]  # internal callbacks are taken too
            ),
        )
        result = _watch(trainer, EpochInbox(Path(folder)), on_report)
    if result.return_value is not None:
        raise TrainingError(result.return_value)
    return _summary(result, metric, location)


@contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _train_worker(task: dict[str, Any]) -> str | None:
    """Runs in each worker. Returns why training cannot work: raising would make Ray try the same again."""
    try:
        prepared = PreparedData.load(task["prepared_uri"])
        lora = task["lora"] and Lora.model_validate(task["lora"])
        config = loop_config(prepared, Train.model_validate(task["settings"]), task["num_threads"], lora)
        checkpoint = _newest_whole(ray.train.get_checkpoint())
        with ExitStack() as stack:
            folder = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
            train(config, _report, folder)
    except FloatingPointError as error:  # of the loss of all workers: each of them raises it
        return str(error)
    except (ValueError, InputError) as error:
        if ray.train.get_context().get_world_size() > 1:
            raise  # the others would wait for this worker until they time out
        return str(error)
    return None


def _newest_whole(latest: ray.train.Checkpoint | None) -> ray.train.Checkpoint | None:
    """The latest checkpoint, or the newest one before it that was not cut short; all workers find the same."""
    if latest is None or latest.filesystem is None:
        return latest
    run, _, name = latest.path.rpartition("/")
    folders = latest.filesystem.get_file_info(pyarrow.fs.FileSelector(run, allow_not_found=True))
    earlier = sorted((info.path for info in folders if "epoch-" < info.base_name < name), reverse=True)
    for path in [latest.path, *earlier]:
        problem = damage_on(latest.filesystem, path)
        if problem is None:
            return ray.train.Checkpoint(path, latest.filesystem)
        logger.warning("checkpoint %s is not whole (%s)", path, problem)
    return None


def _report(metrics: dict[str, float], folder: Path | None) -> None:
    checkpoint = ray.train.Checkpoint.from_directory(folder) if folder else None
    ray.train.report(metrics, checkpoint, checkpoint_dir_name=f"epoch-{int(metrics['epoch']):04d}")


def _watch(trainer: TorchTrainer, inbox: EpochInbox, on_report: OnReport) -> Result:
    """Runs the trainer in a thread and passes reports on from the caller's."""
    run = start(trainer)
    try:
        while not run.done():
            _wait(run)
            for metrics in inbox.receive():
                on_report(metrics)
        for metrics in inbox.receive():  # what came in while the last report was passed on
            on_report(metrics)
        return run.result()
    except TrainingFailedError as error:
        raise TrainingError(reason(error)) from error
    finally:
        while not run.done():  # interrupted
            _end(inbox.controller())
            _wait(run)


def _end(controller: "ActorHandle[Any] | None") -> None:
    """Ends a run from outside; its workers end with the controller."""
    if controller is None:  # not started yet
        return
    try:  # the polite way gives back what the run has asked of the autoscaler, which would else expire in minutes
        ray.get(controller.abort.remote(), timeout=ABORT_TIMEOUT_S)
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError):
        ray.kill(controller)


def _wait(run: "Future[Result]") -> None:
    try:
        run.exception(timeout=POLL_S)
    except TimeoutError:
        return


def _stored_result(location: str) -> Result | None:
    """What an earlier call left, None if nothing usable: no report yet."""
    try:
        files, path = filesystem(location)
        result = Result.from_path(path, files)
    except RuntimeError:  # no such folder, or no snapshot in it
        return None
    last = result.checkpoint
    if last is None or last.filesystem is None or damage_on(last.filesystem, last.path) is not None:
        return None  # nothing was reported, or what was is damaged: the workers look for the one before
    return result


def _history(result: Result) -> tuple[dict[str, float], ...]:
    last = result.checkpoint
    assert last is not None, "callers know that an epoch was reported"
    assert last.filesystem is not None, "Ray sets it for every stored checkpoint"
    with last.filesystem.open_input_stream(f"{last.path}/{HISTORY_FILE}") as file:
        return tuple(json.loads(file.read()))


def _summary(result: Result, metric: str, location: str) -> TrainResult:
    sign = 1 if direction(metric) == "max" else -1
    checkpoint, metrics = max(
        result.best_checkpoints or [], key=lambda item: (sign * item[1][metric], item[1]["epoch"])
    )
    history = _history(result)
    return TrainResult(
        metrics=of_the_epoch(metrics),
        checkpoint=f"{location}/{Path(checkpoint.path).name}",
        history=history,
        seconds=history[-1]["seconds"],
    )
