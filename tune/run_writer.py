"""Writing trials' MLflow runs from a thread of its own: the driver of a sweep never waits for the tracking server.

What a trial reports is held back for a moment, and for as long as a server is slow or away: then all of it goes in one
request.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from common.errors import TrackingError
from common.tracking import MetricsAtStep, RunStatus, Tracker

logger = logging.getLogger(__name__)

GATHER_S = 0.5
"""How long a trial's records wait for more of them. A trial that takes less time is written in one go."""

RETRY_INTERVAL_S = 5.0
"""How long a server that refused is left alone."""


@dataclass
class _Waiting:
    """What is still to be written of a trial."""

    params: dict[str, int | float | str] = field(default_factory=dict)
    metrics: list[MetricsAtStep] = field(default_factory=list)
    status: RunStatus | None = None
    tags: dict[str, str] = field(default_factory=dict)
    is_reopened: bool = False
    since: float = field(default_factory=time.monotonic)
    since_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    until_ms: int = 0
    """When what came last was given."""

    def add(self, later: "_Waiting") -> None:
        self.params |= later.params
        self.metrics += later.metrics
        self.status = later.status or self.status
        self.tags |= later.tags
        self.is_reopened |= later.is_reopened
        self.until_ms = later.since_ms


class RunWriter:
    """Writes each trial's records in the order in which they were given."""

    def __init__(self, tracker: Tracker, parent_run_id: str, on_new_run: Callable[[str, str], None]) -> None:
        """`on_new_run` is called in the thread with the name of a trial and its new run."""
        self._tracker = tracker
        self._parent_run_id = parent_run_id
        self._on_new_run = on_new_run
        self._run_ids: dict[str, str] = {}
        """Of the trials that have not ended."""
        self._kept_ids: dict[str, str] = {}
        """Of all trials."""
        self._waiting: dict[str, _Waiting] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-runs")
        self._thread.start()

    def start(self, name: str, params: Mapping[str, int | float | str], tags: Mapping[str, str] | None = None) -> None:
        """Records the start of a trial."""
        self._add(name, _Waiting(params=dict(params), tags=dict(tags or {})))

    def reopen(self, name: str, run_id: str) -> None:
        """Records that a trial goes on, in the run it had."""
        self._run_ids[name] = self._kept_ids[name] = run_id
        self._add(name, _Waiting(is_reopened=True))

    def log(self, name: str, metrics: Mapping[str, float], step: int) -> None:
        """Records an epoch."""
        self._add(name, _Waiting(metrics=[MetricsAtStep(metrics, step)]))

    def end(self, name: str, status: RunStatus) -> None:
        """Records how a trial ended."""
        self._add(name, _Waiting(status=status))

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            TrackingError: when the server does not take it; what is not written can be found in the study.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _add(self, name: str, given: _Waiting) -> None:
        with self._changed:
            if name in self._waiting:
                self._waiting[name].add(given)
            else:
                self._waiting[name] = given
            self._changed.notify()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._send_or_wait(*item)
            self._discard_doubles()
        except Exception as error:  # nobody watches a thread: whoever closes this is told
            self._error = error

    def _next(self) -> tuple[str, _Waiting] | None:
        """The trial whose turn it is; None when all is written and no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            name, waiting = next(iter(self._waiting.items()))
            self._changed.wait_for(lambda: self._is_closing, timeout=waiting.since + GATHER_S - time.monotonic())
            return name, self._waiting.pop(name)

    def _send_or_wait(self, name: str, waiting: _Waiting) -> None:
        try:
            self._send(name, waiting)
        except TrackingError as error:
            if self._is_closing:
                raise
            with self._changed:
                if name in self._waiting:
                    waiting.add(self._waiting.pop(name))
                self._waiting = {name: waiting, **self._waiting}
                logger.warning("%d trials wait for the tracking server: %s", len(self._waiting), error)
                self._changed.wait_for(lambda: self._is_closing, timeout=RETRY_INTERVAL_S)

    def _send(self, name: str, waiting: _Waiting) -> None:
        if name not in self._run_ids:
            run_id = self._tracker.start(
                name, tags=waiting.tags, parent_run_id=self._parent_run_id, started_at_ms=waiting.since_ms
            )
            self._run_ids[name] = self._kept_ids[name] = run_id
            self._on_new_run(name, run_id)
        run_id = self._run_ids[name]
        if waiting.is_reopened:
            self._tracker.reopen(run_id)
        self._tracker.log(run_id, params=waiting.params, metrics=waiting.metrics)
        if waiting.status is not None:
            self._tracker.finish(run_id, waiting.status, ended_at_ms=waiting.until_ms or waiting.since_ms)
            del self._run_ids[name]

    def _discard_doubles(self) -> None:
        """Deletes the runs that a server began whose answer was lost: MLflow's client asked again, and got another."""
        for run_id, name in self._tracker.open_children(self._parent_run_id).items():
            if name in self._kept_ids and run_id != self._kept_ids[name]:
                self._tracker.discard(run_id)
