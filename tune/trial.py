"""One trial of a sweep, in a Ray Tune function.

A trial of one worker trains in the process that Tune gave it, which keeps its imports from trial to trial (a warm
trial). A trial of several workers starts a Ray Train group from there. Both report the same way.
"""

import gc
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch

from common.errors import StorageError
from common.recipe import Lora, Train, apply_params
from common.tokenised import PreparedData
from tune.allocation import Allocation
from tune.checkpoint import damage_on, first_whole
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED
from tune.train_loop import train
from tune.trainer import checkpoint_uri, fit, loop_config

logger = logging.getLogger(__name__)


STOP_TIMEOUT_S = 60
"""How long Tune waits for a stopped trial before it gives up the process, and with it the next trial: 2 s unless set,
less than the end of an epoch may take on a busy machine."""


@dataclass(frozen=True)
class TrialTask:
    """What all trials of a sweep have in common."""

    prepared_uri: str
    settings: Train
    lora: Lora | None
    metric: str
    allocation: Allocation
    groups_path: str
    """Where the runs of Ray Train groups are stored."""


def run_trial(config: Mapping[str, Any], task: TrialTask) -> None:
    """Trains with the suggested parameters and reports every epoch; a training that fails reports why and ends.

    A failure of the training itself (divergence, out of memory) would only repeat, so it is reported, not raised: the
    process stays warm for the next trial. Tune's own retries are for processes and nodes that die. A checkpoint that
    cannot be stored is no failure of the trial: it is reported as such, and ends the sweep.
    """
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(STOP_TIMEOUT_S)
    try:
        settings, lora = apply_params(task.settings, task.lora, config["params"])
        prepared = PreparedData.load(task.prepared_uri)
        if task.allocation.num_workers == 1:
            _train_here(settings, lora, prepared, task, config["resume_from"])
        else:
            _train_in_group(settings, lora, prepared, task, config["name"], config["reported_epochs"])
    except StorageError as error:
        ray.tune.report({NOT_STORED: str(error)})
    except Exception as error:
        logger.warning("%s failed", config["name"], exc_info=True)
        ray.tune.report({FAILURE: f"{type(error).__name__}: {error}".splitlines()[0]})
    finally:
        _free_memory()


def _free_memory() -> None:
    """Frees what the trial's reference cycles hold: the next trial finds the memory that this one found.

    After the first trial all that is left (libraries, nearly a million objects) is set aside: looking through it took
    0.3 s a trial.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _train_here(
    settings: Train, lora: Lora | None, prepared: PreparedData, task: TrialTask, resume_from: Sequence[str]
) -> None:
    def report(metrics: dict[str, float], folder: Path | None) -> None:
        checkpoint = ray.tune.Checkpoint.from_directory(folder) if folder else None
        try:
            ray.tune.report(metrics, checkpoint=checkpoint)
        except OSError as error:  # from copying the checkpoint
            raise StorageError(str(error)) from error

    with ExitStack() as stack:
        checkpoint = _checkpoint_to_continue(resume_from)
        folder = stack.enter_context(checkpoint.as_directory()) if checkpoint else None
        config = loop_config(prepared, settings, num_threads=task.allocation.cpus_per_worker, lora=lora)
        train(config, report, Path(folder) if folder else None)


def _checkpoint_to_continue(resume_from: Sequence[str]) -> ray.tune.Checkpoint | None:
    """The newest whole checkpoint: Tune's own, when it restarts the trial after a lost process, or a stored one."""
    current: ray.tune.Checkpoint | None = ray.tune.get_checkpoint()
    if current is not None:
        problem = damage_on(current.filesystem, current.path)
        if problem is None:
            return current
        logger.warning("checkpoint %s is not whole (%s)", current.path, problem)
    found, problems = first_whole(resume_from)
    for line in problems:
        logger.warning(line)
    if found is None and (problems or current is not None):
        logger.warning("no checkpoint is whole: the trial starts anew")
    return ray.tune.Checkpoint(found) if found else None


def _train_in_group(
    settings: Train,
    lora: Lora | None,
    prepared: PreparedData,
    task: TrialTask,
    run_name: str,
    reported_epochs: list[int],
) -> None:
    reported = set(reported_epochs)

    def report(metrics: dict[str, float]) -> None:
        reported.add(int(metrics["epoch"]))
        stored = checkpoint_uri(task.groups_path, run_name, metrics["epoch"])
        ray.tune.report({**metrics, GROUP_CHECKPOINT: stored})

    result = fit(
        prepared,
        settings,
        metric=task.metric,
        run_name=run_name,
        storage_path=task.groups_path,
        cpus_per_worker=task.allocation.cpus_per_worker,
        use_gpu=task.allocation.use_gpu,
        on_report=report,
        lora=lora,
    )
    # What an earlier driver's group had stored when that driver ended, but not reported.
    for metrics in result.history:
        if int(metrics["epoch"]) not in reported:
            kept = checkpoint_uri(task.groups_path, run_name, metrics["epoch"])
            is_kept = metrics is result.history[-1] or kept == result.checkpoint
            ray.tune.report({**metrics, GROUP_CHECKPOINT: kept} if is_kept else metrics)
