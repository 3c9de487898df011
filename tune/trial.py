"""One trial of a sweep, in a Ray Tune function.

A trial of one worker trains in the process that Tune gave it, which keeps its imports from trial to trial (a warm
trial). A trial of several workers trains in that process's Ray Train group, which is kept as well.
"""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune

from common.errors import StorageError
from common.recipe import Lora, Train, apply_params
from common.storage import delete_folder
from common.tokenised import PreparedData
from tune.allocation import Allocation
from tune.checkpoint import damage_on, first_whole
from tune.group_exchange import GroupTask
from tune.memory import free_memory
from tune.study import FAILURE, GROUP_CHECKPOINT, NOT_STORED, is_better
from tune.train_loop import train
from tune.trainer import loop_config
from tune.trial_group import train_in_group

logger = logging.getLogger(__name__)

NOTE_FILE = "group_checkpoint"
"""Of the checkpoint that Tune gets of a trial of several workers: it holds where the real one is."""

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
    """Where Ray Train groups store the checkpoints of trials of several workers."""


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
            _train_in_group(settings, lora, prepared, task, config)
    except StorageError as error:
        ray.tune.report({NOT_STORED: str(error)})
    except Exception as error:
        logger.warning("%s failed", config["name"], exc_info=True)
        ray.tune.report({FAILURE: f"{type(error).__name__}: {error}".splitlines()[0]})
    finally:
        free_memory()


def _train_here(
    settings: Train, lora: Lora | None, prepared: PreparedData, task: TrialTask, resume_from: Sequence[str]
) -> None:
    with ExitStack() as stack:
        checkpoint = _checkpoint_to_continue(resume_from)
        folder = stack.enter_context(checkpoint.as_directory()) if checkpoint else None
        config = loop_config(prepared, settings, num_threads=task.allocation.cpus_per_worker, lora=lora)
        train(config, _report, Path(folder) if folder else None)


def _report(metrics: Mapping[str, Any], folder: Path | None) -> None:
    checkpoint = ray.tune.Checkpoint.from_directory(folder) if folder else None
    try:
        ray.tune.report(dict(metrics), checkpoint=checkpoint)
    except OSError as error:  # from copying the checkpoint
        raise StorageError(str(error)) from error


def _checkpoint_to_continue(resume_from: Sequence[str]) -> ray.tune.Checkpoint | None:
    """The newest whole checkpoint: Tune's own, when it restarts the trial after a lost process, or a stored one."""
    current: ray.tune.Checkpoint | None = ray.tune.get_checkpoint()
    if current is not None:
        problem = damage_on(current.filesystem, current.path)
        if problem is None:
            return current
        logger.warning("checkpoint %s is not whole (%s)", current.path, problem)
    found = _stored_checkpoint(resume_from)
    return ray.tune.Checkpoint(found) if found else None


def _stored_checkpoint(resume_from: Sequence[str]) -> str | None:
    found, problems = first_whole(resume_from)
    for line in problems:
        logger.warning(line)
    if found is None and problems:
        logger.warning("no checkpoint is whole: the trial starts anew")
    return found


def _train_in_group(
    settings: Train, lora: Lora | None, prepared: PreparedData, task: TrialTask, config: Mapping[str, Any]
) -> None:
    """Tune gets a note of where the group stored each checkpoint, and keeps and restores the note as it would one."""
    kept = KeptCheckpoints(task.metric)

    def report(metrics: dict[str, float], stored: str) -> None:
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            (Path(folder) / NOTE_FILE).write_text(stored)
            _report({**metrics, GROUP_CHECKPOINT: stored}, Path(folder))
        kept.add(metrics[task.metric], stored)

    train_in_group(
        GroupTask(
            prepared_uri=prepared.uri,
            settings=settings.model_copy(update={"use_gpu": task.allocation.use_gpu}).model_dump(),
            lora=lora.model_dump() if lora else None,
            num_threads=task.allocation.cpus_per_worker,
            folder=f"{task.groups_path}/{config['name']}",
            resume_from=_stored_checkpoint([*_noted_checkpoint(), *config["resume_from"]]),
        ),
        settings,
        task.allocation,
        task.groups_path,
        report,
    )


def _noted_checkpoint() -> list[str]:
    """What Tune's note says, when it restarts the trial after a lost process."""
    note: ray.tune.Checkpoint | None = ray.tune.get_checkpoint()
    if note is None:
        return []
    with note.as_directory() as folder:
        return [(Path(folder) / NOTE_FILE).read_text()]


class KeptCheckpoints:
    """Of the checkpoints that a group stores for a trial, the best, the best before that and the newest are kept."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._best: list[tuple[float, str]] = []
        self._newest: str | None = None

    def add(self, value: float, checkpoint: str) -> None:
        """Keeps a new one and deletes what is not to be kept any more."""
        before = self._kept()
        if not self._best or is_better(self._metric, value, self._best[0][0]):
            self._best = [(value, checkpoint), *self._best[:1]]
        self._newest = checkpoint
        for superseded in before - self._kept():
            delete_folder(superseded)

    def _kept(self) -> set[str]:
        return {checkpoint for _, checkpoint in self._best} | ({self._newest} if self._newest else set())
