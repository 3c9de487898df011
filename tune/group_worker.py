"""A worker of a group that trains one trial after another: its imports, and its place in the group, are made once."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray
import ray.train

from common.errors import StorageError
from common.location import filesystem, local_path, whole_folder
from common.recipe import Lora, Train
from common.tokenised import PreparedData
from tune.group_exchange import GroupEvent, GroupTask
from tune.memory import free_memory
from tune.train_loop import train
from tune.trainer import loop_config


class _StoppedError(Exception):
    """The scheduler has stopped the trial."""


def serve_trials(config: dict[str, Any]) -> None:
    """Runs in each worker and trains what the exchange (a `GroupExchange` actor) hands out.

    An error of one worker is raised, and the group starts anew: the others would wait for this one until they time out.
    """
    exchange: Any = config["exchange"]
    tells = ray.train.get_context().get_world_rank() == 0
    number = 0
    while (assigned := ray.get(exchange.next_task.remote(after=number))) is not None:
        number, task = assigned
        ended = _train(exchange, number, task)
        if tells:
            ray.get(exchange.end.remote(ended))
        free_memory()


def _train(exchange: Any, number: int, task: GroupTask) -> GroupEvent:
    """Returns how the trial ended."""

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        epoch = int(metrics["epoch"])
        told: tuple[Any, ...] = ()
        if folder is not None:  # rank 0
            checkpoint = f"{task.folder}/epoch-{epoch:04d}"
            _store(folder, checkpoint)
            told = (metrics, checkpoint)
        if not ray.get(exchange.report.remote(number, epoch, *told)):
            raise _StoppedError

    try:
        prepared = PreparedData.load(task.prepared_uri)
        lora = Lora.model_validate(task.lora) if task.lora else None
        config = loop_config(prepared, Train.model_validate(task.settings), task.num_threads, lora)
        with ExitStack() as stack:
            checkpoint = ray.train.Checkpoint(task.resume_from) if task.resume_from else None
            folder = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
            train(config, report, folder)
    except _StoppedError:
        return GroupEvent()
    except FloatingPointError as error:  # of the loss of all workers: each of them raises it
        return GroupEvent(failure=str(error))
    except StorageError as error:  # of rank 0, which tells; the others are stopped
        return GroupEvent(not_stored=str(error))
    return GroupEvent()


def _store(folder: Path, location: str) -> None:
    target = local_path(location)
    try:
        if target is not None:
            with whole_folder(target) as partial:
                shutil.copytree(folder, partial, dirs_exist_ok=True)
        else:
            files, path = filesystem(location)
            pyarrow.fs.copy_files(str(folder), path, destination_filesystem=files)
    except (OSError, shutil.Error) as error:
        raise StorageError(str(error)) from error
