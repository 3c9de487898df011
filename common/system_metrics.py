"""CPU, memory, disk, network and GPUs of this machine while a job runs, by MLflow's own monitor."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.tracking import Tracker

FINISH_TIMEOUT_S = 10.0
"""How long the end of a job waits for the last figures: MLflow repeats a request for minutes."""


@contextmanager
def system_metrics(tracker: Tracker, run_id: str) -> Iterator[None]:
    """Inside, the run gets metrics that begin with `system/`, every 10 s; a run that goes on gets more of them.

    A server that is away ends the measuring and nothing else. For a whole sweep this is done once: its trials share
    machines, so each would be shown what all of them take.
    """
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, resume_logging=True, tracking_uri=tracker.uri
    )
    monitor.start()
    try:
        yield
    finally:
        end = threading.Thread(target=monitor.finish, daemon=True, name="system-metrics-end")
        end.start()
        end.join(FINISH_TIMEOUT_S)
