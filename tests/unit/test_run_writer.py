"""Writing MLflow runs beside the sweep: nothing is lost, and the driver waits for no server."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common.errors import TrackingError
from common.tracking import MetricsAtStep
from tune import run_writer
from tune.run_writer import RunWriter


class FakeTracker:
    """Notes each request; refuses while `away`, and does not answer while it is not `free`."""

    def __init__(self) -> None:
        self.away = False
        self.refused = threading.Event()
        self.asked = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.requests: list[tuple[Any, ...]] = []

    def start(self, name: str, tags: dict[str, str], parent_run_id: str, started_at_ms: int) -> str:
        self._take("start", name)
        return f"run-of-{name}"

    def open_children(self, parent_run_id: str) -> dict[str, str]:
        return {}

    def reopen(self, run_id: str) -> None:
        self._take("reopen", run_id)

    def log(self, run_id: str, *, params: dict[str, float], metrics: list[MetricsAtStep]) -> None:
        self._take(run_id, params, [(at.step, dict(at.values)) for at in metrics])

    def finish(self, run_id: str, status: str, ended_at_ms: int) -> None:
        self._take(run_id, status)

    def _take(self, *request: Any) -> None:
        self.asked.set()
        self.free.wait()
        if self.away:
            self.refused.set()
            raise TrackingError("away")
        self.requests.append(request)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTracker]:
    monkeypatch.setattr(run_writer, "RETRY_INTERVAL_S", 0.001)
    monkeypatch.setattr(run_writer, "GATHER_S", 0.0)
    fake = FakeTracker()
    yield fake
    fake.free.set()


def writer_to(tracker: FakeTracker, runs: dict[str, str] | None = None) -> RunWriter:
    return RunWriter(tracker, "parent", ({} if runs is None else runs).__setitem__)  # type: ignore[arg-type]


def test_what_a_server_that_was_away_missed_is_written_in_order_when_it_is_back(tracker: FakeTracker) -> None:
    runs: dict[str, str] = {}
    writer = writer_to(tracker, runs)
    tracker.away = True
    writer.start("trial-0", {"learning_rate": 0.1})
    assert tracker.refused.wait(10)
    writer.start("trial-1", {"learning_rate": 0.2})
    writer.log("trial-0", {"loss": 0.5}, 1)
    writer.log("trial-0", {"loss": 0.4}, 2)
    writer.end("trial-0", "FINISHED")
    tracker.away = False
    writer.close()
    assert tracker.requests == [
        ("start", "trial-0"),
        ("run-of-trial-0", {"learning_rate": 0.1}, [(1, {"loss": 0.5}), (2, {"loss": 0.4})]),
        ("run-of-trial-0", "FINISHED"),
        ("start", "trial-1"),
        ("run-of-trial-1", {"learning_rate": 0.2}, []),
    ]
    assert runs == {"trial-0": "run-of-trial-0", "trial-1": "run-of-trial-1"}


def test_a_run_is_started_once_whatever_is_refused_after_that(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = iter([True, True, False, False])

    def log_when_allowed(*arguments: Any, **named: Any) -> None:
        if next(refuse):
            raise TrackingError("busy")
        FakeTracker.log(tracker, *arguments, **named)

    monkeypatch.setattr(tracker, "log", log_when_allowed)
    writer = writer_to(tracker)
    writer.start("trial-0", {})
    deadline = time.monotonic() + 10
    while len(tracker.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    writer.end("trial-0", "FINISHED")
    writer.close()
    assert [request for request in tracker.requests if request[0] == "start"] == [("start", "trial-0")]
    assert tracker.requests[-1] == ("run-of-trial-0", "FINISHED")


def test_what_waits_for_a_slow_server_goes_in_one_request_a_trial(tracker: FakeTracker) -> None:
    tracker.free.clear()
    writer = writer_to(tracker)
    writer.start("trial-0", {})
    assert tracker.asked.wait(10)
    for epoch in range(1, 4):
        for number in (1, 2):
            writer.log(f"trial-{number}", {"loss": 1 / epoch}, epoch)
    tracker.free.set()
    writer.close()
    losses = [(epoch, {"loss": 1 / epoch}) for epoch in range(1, 4)]
    logged = [request for request in tracker.requests if request[0] in {"run-of-trial-1", "run-of-trial-2"}]
    assert logged == [("run-of-trial-1", {}, losses), ("run-of-trial-2", {}, losses)]


def test_a_trial_shorter_than_a_moment_is_written_in_one_go(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_writer, "GATHER_S", 60.0)
    writer = writer_to(tracker)
    writer.start("trial-0", {"learning_rate": 0.1})
    writer.log("trial-0", {"loss": 0.5}, 1)
    writer.end("trial-0", "FINISHED")
    writer.close()  # waits for no moment to pass
    assert tracker.requests == [
        ("start", "trial-0"),
        ("run-of-trial-0", {"learning_rate": 0.1}, [(1, {"loss": 0.5})]),
        ("run-of-trial-0", "FINISHED"),
    ]


def test_closing_waits_until_all_is_written(tracker: FakeTracker) -> None:
    writer = writer_to(tracker)
    for number in range(200):
        writer.start(f"trial-{number}", {})
        writer.end(f"trial-{number}", "FINISHED")
    writer.close()
    assert len([request for request in tracker.requests if request[-1] == "FINISHED"]) == 200


def test_a_trial_that_goes_on_keeps_its_run(tracker: FakeTracker) -> None:
    writer = writer_to(tracker)
    writer.reopen("trial-0", "run-of-before")
    writer.log("trial-0", {"loss": 0.5}, 3)
    writer.end("trial-0", "FINISHED")
    writer.close()
    assert tracker.requests[0] == ("reopen", "run-of-before")
    assert tracker.requests[-1] == ("run-of-before", "FINISHED")
    assert ("start", "trial-0") not in tracker.requests


def test_a_run_that_a_server_began_twice_because_its_answer_was_lost_is_there_once(
    tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_runs = {"double": "trial-0", "run-of-trial-1": "trial-1", "of-another-phase": "trial-2"}
    monkeypatch.setattr(tracker, "open_children", lambda parent: open_runs)
    monkeypatch.setattr(tracker, "discard", lambda run_id: tracker._take("discard", run_id), raising=False)
    writer = writer_to(tracker)
    for name in ("trial-0", "trial-1"):
        writer.start(name, {})
    writer.end("trial-0", "FINISHED")
    writer.close()
    assert [request for request in tracker.requests if request[0] == "discard"] == [("discard", "double")]


def test_a_server_that_stays_away_is_an_error_when_the_writer_closes(tracker: FakeTracker) -> None:
    writer = writer_to(tracker)
    tracker.away = True
    writer.start("trial-0", {})
    with pytest.raises(TrackingError, match="away"):
        writer.close()


def test_a_defect_in_the_thread_is_not_kept_secret(tracker: FakeTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tracker, "log", broken)
    writer = writer_to(tracker)
    writer.start("trial-0", {})
    with pytest.raises(ZeroDivisionError):
        writer.close()
