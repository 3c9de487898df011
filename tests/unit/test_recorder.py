"""Recording trials: a tracking server that is away loses nothing and stops no trial."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import TrackingError
from common.search_range import Range
from common.search_settings import Search
from tune.recorder import TrialRecorder
from tune.study import FAILURE, StudySearch, journal


class FakeTracker:
    """Notes what it is told; refuses while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.seen: list[tuple[Any, ...]] = []

    def start(self, name: str, **_: Any) -> str:
        return f"run-of-{name}"

    def log_metrics(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        self._take("metrics", run_id, step)

    def finish(self, run_id: str, status: str) -> None:
        self._take("finish", run_id, status)

    def _take(self, *what: Any) -> None:
        if self.away:
            raise TrackingError("away")
        self.seen.append(what)


@pytest.fixture
def study(tmp_path: Path) -> StudySearch:
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})
    found = StudySearch(search, name="sweep", storage=journal(tmp_path / "study.journal"), epochs=3)
    found.suggest("a")
    return found


def epoch(number: int, accuracy: float) -> dict[str, float]:
    return {"epoch": number, "accuracy": accuracy, "loss": 0.1}


def test_what_a_server_that_was_away_missed_is_recorded_in_order_when_it_is_back(study: StudySearch) -> None:
    tracker = FakeTracker()
    recorder = TrialRecorder(study, tracker, "parent", lambda records: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result=epoch(2, 0.6))
    recorder.on_trial_start(0, [], trial)
    tracker.away = True
    recorder.on_trial_result(0, [], trial, epoch(1, 0.5))
    recorder.on_trial_result(0, [], trial, epoch(2, 0.6))
    tracker.away = False
    recorder.on_trial_complete(0, [], trial)
    run = "run-of-trial-0"
    assert tracker.seen == [("metrics", run, 1), ("metrics", run, 2), ("finish", run, "FINISHED")]
    recorder.close("FINISHED")
    assert len(tracker.seen) == 3


def test_a_server_that_stays_away_is_an_error_at_the_end(study: StudySearch) -> None:
    tracker = FakeTracker()
    recorder = TrialRecorder(study, tracker, "parent", lambda records: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result={FAILURE: "out of memory"})
    recorder.on_trial_start(0, [], trial)
    tracker.away = True
    recorder.on_trial_complete(0, [], trial)
    with pytest.raises(TrackingError):
        recorder.close("FINISHED")


def test_closing_ends_every_open_run_even_when_whoever_watches_interrupts(study: StudySearch) -> None:
    tracker = FakeTracker()

    def interrupt(records: Any) -> None:
        raise KeyboardInterrupt

    recorder = TrialRecorder(study, tracker, "parent", interrupt)  # type: ignore[arg-type]
    study.suggest("b")
    for trial_id in "ab":
        with pytest.raises(KeyboardInterrupt):
            recorder.on_trial_start(0, [], SimpleNamespace(trial_id=trial_id))  # type: ignore[arg-type]
    recorder.close("KILLED")
    assert tracker.seen == [("finish", "run-of-trial-0", "KILLED"), ("finish", "run-of-trial-1", "KILLED")]


def test_the_best_checkpoint_is_that_of_the_best_epoch_and_the_latest_that_of_the_last(study: StudySearch) -> None:
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda records: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result={})
    recorder.on_trial_start(0, [], trial)
    for number, accuracy in enumerate((0.5, 0.9, 0.8), start=1):
        trial.last_result = epoch(number, accuracy)
        recorder.on_trial_result(0, [], trial, trial.last_result)
        recorder.on_checkpoint(0, [], trial, SimpleNamespace(path=f"/checkpoint-{number}"))  # type: ignore[arg-type]
    (record,) = study.records()
    assert (record.checkpoint, record.latest_checkpoint) == ("/checkpoint-2", "/checkpoint-3")
    assert record.metrics["accuracy"] == 0.9


@pytest.mark.parametrize(
    ("accuracies", "fallback"),
    [
        ((0.5,), None),
        ((0.5, 0.9), "/checkpoint-1"),
        ((0.5, 0.9, 0.8), "/checkpoint-2"),
        ((0.5, 0.4, 0.9), "/checkpoint-1"),
    ],
)
def test_beside_the_latest_checkpoint_one_that_tune_keeps_is_known(
    accuracies: tuple[float, ...], fallback: str | None, study: StudySearch
) -> None:
    """Tune keeps the two best and the latest."""
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda records: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result={})
    recorder.on_trial_start(0, [], trial)
    for number, accuracy in enumerate(accuracies, start=1):
        trial.last_result = epoch(number, accuracy)
        recorder.on_checkpoint(0, [], trial, SimpleNamespace(path=f"/checkpoint-{number}"))  # type: ignore[arg-type]
    (record,) = study.records()
    assert record.fallback_checkpoint == fallback
