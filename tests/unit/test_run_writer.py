"""Writing MLflow runs beside the sweep: nothing is lost, and the driver waits for no server."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import TrackingError
from common.tracking import MetricsAtStep
from tune import run_writer
from tune.run_writer import RunWriter


class FakeTracker:
    """Notes each request; refuses while `away`, and does not answer while `busy`."""

    def __init__(self) -> None:
        self.away = False
        self.refused = threading.Event()
        self.asked = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.requests: list[tuple[Any, ...]] = []

    def log(self, run_id: str, *, params: dict[str, float], metrics: list[MetricsAtStep]) -> None:
        self.asked.set()
        self.free.wait()
        if self.away:
            self.refused.set()
            raise TrackingError("away")
        self.requests.append((run_id, params, [(at.step, dict(at.values)) for at in metrics]))

    def finish(self, run_id: str, status: str, ended_at_ms: int) -> None:
        self.requests.append((run_id, status))


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTracker]:
    monkeypatch.setattr(run_writer, "RETRY_INTERVAL_S", 0.001)
    fake = FakeTracker()
    yield fake
    fake.free.set()


def test_what_a_server_that_was_away_missed_is_written_in_order_when_it_is_back(tracker: FakeTracker) -> None:
    writer = RunWriter(tracker)  # type: ignore[arg-type]
    tracker.away = True
    writer.write("a", metrics={1: {"loss": 0.5}})
    assert tracker.refused.wait(10)
    writer.write("b", metrics={1: {"loss": 0.7}})
    writer.write("a", metrics={2: {"loss": 0.4}})
    writer.write("a", status="FINISHED")
    tracker.away = False
    writer.close()
    assert tracker.requests == [
        ("a", {}, [(1, {"loss": 0.5}), (2, {"loss": 0.4})]),
        ("a", "FINISHED"),
        ("b", {}, [(1, {"loss": 0.7})]),
    ]


def test_what_waits_for_a_slow_server_goes_in_one_request_a_run(tracker: FakeTracker) -> None:
    tracker.free.clear()
    writer = RunWriter(tracker)  # type: ignore[arg-type]
    writer.write("first", params={"learning_rate": 0.1})
    assert tracker.asked.wait(10)
    for epoch in range(1, 4):
        for run in "ab":
            writer.write(run, params={"learning_rate": 0.1}, metrics={epoch: {"loss": 1 / epoch}})
    tracker.free.set()
    writer.close()
    losses = [(epoch, {"loss": 1 / epoch}) for epoch in range(1, 4)]
    assert tracker.requests[1:] == [("a", {"learning_rate": 0.1}, losses), ("b", {"learning_rate": 0.1}, losses)]


def test_closing_waits_until_all_is_written(tracker: FakeTracker) -> None:
    writer = RunWriter(tracker)  # type: ignore[arg-type]
    for number in range(200):
        writer.write(f"run-{number}", metrics={1: {"loss": 0.5}}, status="FINISHED")
    writer.close()
    assert len(tracker.requests) == 400


def test_a_server_that_stays_away_is_an_error_when_the_writer_closes(tracker: FakeTracker) -> None:
    writer = RunWriter(tracker)  # type: ignore[arg-type]
    tracker.away = True
    writer.write("a", metrics={1: {"loss": 0.5}})
    with pytest.raises(TrackingError, match="away"):
        writer.close()


def test_a_defect_in_the_thread_is_not_kept_secret(tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tracker, "log", broken)
    writer = RunWriter(tracker)  # type: ignore[arg-type]
    writer.write("a", metrics={1: {"loss": 0.5}})
    with pytest.raises(ZeroDivisionError):
        writer.close()
