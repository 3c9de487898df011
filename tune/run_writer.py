"""Writing MLflow runs from a thread of its own: the driver of a sweep never waits for the tracking server.

What waits is held by run, so that a server that is slow, or away, gets all of a run in one request when its turn comes.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import TrackingError
from common.tracking import MetricsAtStep, RunStatus, Tracker

logger = logging.getLogger(__name__)

RETRY_INTERVAL_S = 5.0
"""How long a server that refused is left alone."""


@dataclass
class _Waiting:
    """What a run's next request holds."""

    params: dict[str, int | float | str] = field(default_factory=dict)
    metrics: list[MetricsAtStep] = field(default_factory=list)
    status: RunStatus | None = None
    ended_at_ms: int | None = None

    def add(self, later: "_Waiting") -> None:
        self.params |= later.params
        self.metrics += later.metrics
        self.status, self.ended_at_ms = later.status or self.status, later.ended_at_ms or self.ended_at_ms


class RunWriter:
    """Writes to runs that exist, each run's records in the order in which they were given."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._waiting: dict[str, _Waiting] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow-runs")
        self._thread.start()

    def write(
        self,
        run_id: str,
        *,
        params: Mapping[str, int | float | str] | None = None,
        metrics: Mapping[int, Mapping[str, float]] | None = None,
        status: RunStatus | None = None,
    ) -> None:
        """Records parameters, metrics by epoch, or the end of a run; returns at once."""
        at_steps = [MetricsAtStep(values, step) for step, values in (metrics or {}).items()]
        given = _Waiting(dict(params or {}), at_steps, status, int(time.time() * 1000) if status else None)
        with self._changed:
            self._waiting.setdefault(run_id, _Waiting()).add(given)
            self._changed.notify()

    def close(self) -> None:
        """Waits until everything is written.

        Raises:
            TrackingError: when the server does not take it; the rest is lost.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._send_or_wait(*item)
        except Exception as error:  # nobody watches a thread: whoever closes this is told
            self._error = error

    def _send_or_wait(self, run_id: str, waiting: _Waiting) -> None:
        try:
            self._send(run_id, waiting)
        except TrackingError as error:
            if self._is_closing:
                raise
            self._put_back(run_id, waiting)
            logger.warning("%d runs wait for the tracking server: %s", len(self._waiting), error)
            self._pause()

    def _next(self) -> tuple[str, _Waiting] | None:
        """The run whose turn it is; None when all is written and no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closing)
            if not self._waiting:
                return None
            run_id = next(iter(self._waiting))
            return run_id, self._waiting.pop(run_id)

    def _put_back(self, run_id: str, waiting: _Waiting) -> None:
        with self._changed:
            waiting.add(self._waiting.pop(run_id, _Waiting()))
            self._waiting = {run_id: waiting, **self._waiting}

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, timeout=RETRY_INTERVAL_S)

    def _send(self, run_id: str, waiting: _Waiting) -> None:
        self._tracker.log(run_id, params=waiting.params, metrics=waiting.metrics)
        if waiting.status is not None:
            self._tracker.finish(run_id, waiting.status, ended_at_ms=waiting.ended_at_ms)
