"""Runs in Weights & Biases, beside MLflow: written from a thread of their own, so that nobody waits for its server.

A server that is away or refuses ends no job: runs that it does not take are written to this machine, and `close` says
which, why, and how to upload them.
"""

import hashlib
import importlib.util
import json
import logging
import os
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from common.errors import TrackingError
from common.tracking_settings import Wandb

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 120.0
"""How long the end of a job waits for uploads that are under way."""

_KILL_TIMEOUT_S = 5.0

_SERVICE = "wandb-core"
"""W&B's own process, which does the writing and uploading."""

_UPLOADERS = ("filestream:", "runupserter:")
"""Begin what it logs of metrics, and of what a run is."""

_NETWORK = ("graphql", "file_stream", "file_transfer")

_SETTINGS: dict[str, Any] = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "save_code": False,
    "x_save_requirements": False,
    # Trials share machines; MLflow measures the system for the job.
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    # A request is given up after a minute or two, and not after hours.
    "init_timeout": 60.0,
    **{f"x_{kind}_retry_max": 4 for kind in _NETWORK},
    **{f"x_{kind}_retry_wait_max_seconds": 10.0 for kind in _NETWORK},
    **{f"x_{kind}_timeout_seconds": 10.0 for kind in _NETWORK},
}
"""Of `wandb.Settings`."""


@dataclass(frozen=True)
class WandbOutcome:
    """What became of a job's runs in W&B."""

    num_runs: int
    url: str | None
    """Of the job's first run; None offline."""
    not_tracked: tuple[str, ...]
    """The names of the runs that W&B has not, or not in full; none of those that were to be offline."""
    reason: str | None
    """Why."""
    folder: str
    """Holds a folder for each run that is on this machine alone."""

    @property
    def message(self) -> str:
        """For people: where the runs are, and what is not where it should be."""
        upload = f"wandb sync {self.folder}/*run-*"
        if self.not_tracked:
            shown = ", ".join(self.not_tracked[:5]) + (" ..." if len(self.not_tracked) > 5 else "")
            return (
                f"not in Weights & Biases: {len(self.not_tracked)} of {self.num_runs} runs ({shown}): {self.reason}. "
                f"What could be written is in {self.folder}; upload it with: {upload}"
            )
        if self.url is None:
            return f"W&B: {self.num_runs} runs are in {self.folder}; upload them with: {upload}"
        return f"W&B: {self.url}"


def refuse_unusable_wandb(settings: Wandb | None) -> None:
    """Raises `TrackingError` when W&B is asked for and cannot work: not installed, or online without a key."""
    if settings is None:
        return
    if importlib.util.find_spec("wandb") is None:
        raise TrackingError(
            "tracking.wandb needs the package wandb, which is not installed: pip install 'tuneserve[wandb]', or leave "
            "tracking.wandb out"
        )
    if settings.mode == "online" and not os.environ.get("WANDB_API_KEY"):
        raise TrackingError(
            "tracking.wandb needs a key: set WANDB_API_KEY in the environment (not in the recipe, which is stored with "
            "every run), or write runs to the storage with tracking.wandb.mode=offline"
        )


class WandbRuns:
    """The runs of one job: a sweep with its trials, or one training."""

    def __init__(
        self,
        settings: Wandb,
        folder: Path,
        group: str,
        tags: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Runs are kept below `folder` until W&B has them; all get the `group`, the `tags` and the `config`."""
        self._settings = settings
        self._folder = folder
        self._group = group
        self._tags = list(tags)
        self._config = dict(config or {})
        self._is_offline = settings.mode == "offline"
        self._is_abandoned = False
        self._names: dict[str, None] = {}
        self._unsettled: dict[str, None] = {}
        """Those of which it is not known that all is written."""
        self._runs: dict[str, Any] = {}
        """Those that have not ended."""
        self._lost: dict[str, None] = {}
        self._reason: str | None = None
        self._url: str | None = None
        self._tasks: queue.SimpleQueue[tuple[str, Callable[[], None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="wandb-runs")
        self._thread.start()

    def start(self, name: str, *, job_type: str, config: Mapping[str, Any]) -> None:
        """Records the start of a run, or that it goes on: its id follows from the group and its name.

        `config` is what it has other than all runs.
        """
        self._names[name] = self._unsettled[name] = None
        self._tasks.put((name, partial(self._start, name, job_type, {**self._config, **config})))

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Records metrics at a step (an epoch, say); those of a step that W&B has are left as they are."""
        self._tasks.put((name, partial(self._log, name, dict(metrics), step)))

    def end(self, name: str, *, failed: bool) -> None:
        """Records how a run ended."""
        self._tasks.put((name, partial(self._end, name, failed=failed)))

    def close(self) -> WandbOutcome:
        """Ends the runs that are open and W&B's process; waits for uploads, but not for ever."""
        self._tasks.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            self._reason = self._reason or f"uploads had not ended after {CLOSE_TIMEOUT_S:.0f} s"
            self._is_abandoned = True
            self._lost |= dict.fromkeys(tuple(self._unsettled))
            _end_service()
            self._thread.join(_KILL_TIMEOUT_S)
        folder = str(self._folder / "wandb")
        return WandbOutcome(len(self._names), self._url, tuple(self._lost), self._reason, folder)

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                self._try(*task)
            for name in list(self._runs):
                self._try(name, partial(self._end, name, failed=True))
        finally:
            _end_library()

    def _try(self, name: str, task: Callable[[], None]) -> None:
        if self._is_abandoned:
            return
        try:
            task()
        except Exception as error:  # whatever it is, the job goes on
            self._note(name, error)

    def _note(self, name: str, error: object) -> None:
        if self._reason is None:
            self._reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            logger.warning("Weights & Biases does not take %s: %s", name, self._reason)
        self._lost[name] = None

    def _start(self, name: str, job_type: str, config: dict[str, Any]) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if self._is_offline:
            if self._settings.mode == "online":
                self._lost[name] = None
            self._runs[name] = self._init(name, job_type, config, "offline")
            return
        try:
            self._runs[name] = self._init(name, job_type, config, "online")
            self._url = self._url or self._runs[name].url
        except (wandb.Error, ValueError) as error:
            self._note(name, error)
            self._is_offline = True  # for this run and those to come: each would wait again
            self._runs[name] = self._init(name, job_type, config, "offline")

    def _init(self, name: str, job_type: str, config: dict[str, Any], mode: str) -> Any:
        import wandb

        settings = wandb.Settings(**_SETTINGS)
        wandb.setup(settings)
        self._folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            dir=self._folder,
            mode=mode,  # type: ignore[arg-type]
            id=hashlib.sha256(f"{self._group}/{name}".encode()).hexdigest()[:16],
            resume="allow" if mode == "online" else None,
            name=name,
            group=self._group,
            job_type=job_type,
            tags=self._tags,
            config=config,
            reinit="create_new",
            settings=settings,
        )

    def _log(self, name: str, metrics: dict[str, float], step: int) -> None:
        if name in self._runs:
            self._runs[name].log(metrics, step=step)

    def _end(self, name: str, *, failed: bool) -> None:
        run = self._runs.get(name)
        if run is None:
            return
        folder = Path(run.settings.sync_dir)
        run.finish(exit_code=int(failed))
        del self._runs[name], self._unsettled[name]
        if run.settings.mode == "offline":
            return
        problem = _upload_problem(folder)
        if problem is None:
            shutil.rmtree(folder, ignore_errors=True)  # W&B has it
        else:
            self._note(name, problem)
            self._is_offline = True


def _upload_problem(folder: Path) -> str | None:
    """Why a run that has ended was not uploaded in full: W&B's process says so in its log and nowhere else."""
    with suppress(OSError, ValueError, KeyError):
        for line in (folder / "logs" / "debug-internal.log").read_text().splitlines():
            entry = json.loads(line)
            if str(entry["level"]).startswith("ERROR") and str(entry["msg"]).startswith(_UPLOADERS):
                return str(entry["msg"]).partition(" giving up")[0]
    return None


def _end_library() -> None:
    """Ends W&B's process; it is done when its runs have ended."""
    with suppress(Exception):  # it has crashed, or `close` has lost patience with it
        import wandb

        wandb.teardown()


def _end_service() -> None:
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if child.name() == _SERVICE:
                child.kill()
                child.wait(_KILL_TIMEOUT_S)
