"""What a run is told of the machine, with a real monitor and database."""

import threading
from pathlib import Path

import pytest

from common.system_metrics import system_metrics
from common.tracking import Tracker, sqlite_uri


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker.open(sqlite_uri(str(tmp_path)), "headlines")


def monitors() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "SystemMetrics" in thread.name]


def test_a_run_gets_the_machines_load_until_it_ends_and_when_it_goes_on(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.01")
    run_id = tracker.start("train")
    seen = 0
    for _ in range(2):
        with system_metrics(tracker, run_id):
            assert monitors()
            while len(tracker.logged_steps(run_id, "system/cpu_utilization_percentage")) <= seen:
                pass
        assert not monitors()
        steps = tracker.logged_steps(run_id, "system/cpu_utilization_percentage")
        assert steps == set(range(len(steps)))
        seen = len(steps)
    assert "system/system_memory_usage_percentage" in tracker.client.get_run(run_id).data.metrics


def test_a_run_that_is_not_there_ends_the_measuring_and_not_the_job(tracker: Tracker) -> None:
    with system_metrics(tracker, "0" * 32):
        pass
    assert not monitors()
