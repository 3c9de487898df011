"""Recording trials: what a study and a tracking server get of what trials report."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest

from common.errors import TrackingError
from common.search_range import Range
from common.search_settings import Search
from common.tracking import MetricsAtStep
from tune.checkpoint import seal
from tune.recorder import TrialRecorder
from tune.study import FAILURE, StudySearch, TrialRecord, journal


class FakeTracker:
    """Notes what it is told; refuses while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.seen: list[tuple[Any, ...]] = []

    def start(self, name: str, **_: Any) -> str:
        if self.away:
            raise TrackingError("away")
        return f"run-of-{name}"

    def open_children(self, parent_run_id: str) -> dict[str, str]:
        return {}

    def reopen(self, run_id: str) -> None:
        self.seen.append(("reopen", run_id))

    def log(self, run_id: str, *, params: dict[str, float], metrics: list[MetricsAtStep]) -> None:
        if self.away:
            raise TrackingError("away")
        self.seen += [("metrics", run_id, at.step) for at in metrics]

    def finish(self, run_id: str, status: str, ended_at_ms: int) -> None:
        self.seen.append(("finish", run_id, status))


@pytest.fixture
def study(tmp_path: Path) -> StudySearch:
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})
    found = StudySearch(search, name="sweep", storage=journal(tmp_path / "study.journal"), epochs=3)
    found.suggest("a")
    return found


def epoch(number: int, accuracy: float) -> dict[str, float]:
    return {"epoch": number, "accuracy": accuracy, "loss": 0.1}


def stored(path: str) -> Any:
    """A checkpoint as Tune tells of it."""
    return SimpleNamespace(path=path, filesystem=pyarrow.fs.LocalFileSystem())


def test_a_run_gets_its_epochs_and_its_end_in_order(study: StudySearch) -> None:
    tracker = FakeTracker()
    recorder = TrialRecorder(study, tracker, "parent", lambda record: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result=epoch(2, 0.6))
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, epoch(1, 0.5))
    recorder.on_trial_result(0, [], trial, epoch(2, 0.6))
    recorder.on_trial_complete(0, [], trial)
    recorder.close("KILLED")  # of the runs that are open: there is none
    run = "run-of-trial-0"
    assert tracker.seen == [("metrics", run, 1), ("metrics", run, 2), ("finish", run, "FINISHED")]
    assert study.record("a").run_id == run


def test_the_losses_of_steps_are_recorded_once_though_a_trial_repeats_their_epoch(study: StudySearch) -> None:
    tracker = FakeTracker()
    recorder = TrialRecorder(study, tracker, "parent", lambda record: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result=epoch(1, 0.6))
    recorder.on_trial_start(0, [], trial)
    for loss in (0.9, 0.8):  # the second time after its process and its checkpoint were lost
        recorder.on_trial_result(0, [], trial, {**epoch(1, 0.5), "train_loss at step 50": loss})
    recorder.close("KILLED")
    run = "run-of-trial-0"
    assert tracker.seen == [("metrics", run, 1), ("metrics", run, 50), ("metrics", run, 1), ("finish", run, "KILLED")]
    assert study.step_losses() == {"trial-0": {50: 0.9}}
    assert study.record("a").history == (epoch(1, 0.5),)


class FakeWandb:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def start(self, name: str, *, job_type: str, config: dict[str, Any]) -> None:
        self.seen.append(("start", name, job_type, *config))

    def log(self, name: str, metrics: dict[str, float], step: int) -> None:
        self.seen.append(("log", name, metrics["accuracy"], step))

    def end(self, name: str, *, failed: bool) -> None:
        self.seen.append(("end", name, failed))


def test_wandb_gets_what_mlflow_gets_and_of_a_trial_that_goes_on_all_its_epochs(study: StudySearch) -> None:
    study.record_epoch("a", epoch(1, 0.5))  # by a driver that was killed
    wandb: Any = FakeWandb()
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda record: None, wandb)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result=epoch(2, 0.6))
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, epoch(2, 0.6))
    recorder.on_trial_complete(0, [], trial)
    recorder.close("FINISHED")
    assert wandb.seen == [
        ("start", "trial-0", "trial", "learning_rate"),
        ("log", "trial-0", 0.5, 1),
        ("log", "trial-0", 0.6, 2),
        ("end", "trial-0", False),
    ]


def test_an_interrupted_trial_goes_on_in_its_run(study: StudySearch) -> None:
    tracker = FakeTracker()
    study.record_run("trial-0", "run-of-before")
    recorder = TrialRecorder(study, tracker, "parent", lambda record: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result=epoch(1, 0.6))
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_start(0, [], trial)  # Tune has moved it to another process
    recorder.on_trial_complete(0, [], trial)
    recorder.close("FINISHED")
    assert tracker.seen == [("reopen", "run-of-before"), ("finish", "run-of-before", "FINISHED")]


def test_a_server_that_stays_away_stops_no_trial_and_is_an_error_at_the_end(study: StudySearch) -> None:
    tracker = FakeTracker()
    tracker.away = True
    recorder = TrialRecorder(study, tracker, "parent", lambda record: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result={FAILURE: "out of memory"})
    recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trial, epoch(1, 0.5))
    recorder.on_trial_complete(0, [], trial)
    assert [metrics["epoch"] for metrics in study.record("a").history] == [1]
    with pytest.raises(TrackingError):
        recorder.close("FINISHED")


def test_closing_ends_every_open_run_even_when_whoever_watches_interrupts(study: StudySearch) -> None:
    tracker = FakeTracker()

    def interrupt(record: TrialRecord) -> None:
        raise KeyboardInterrupt

    recorder = TrialRecorder(study, tracker, "parent", interrupt)  # type: ignore[arg-type]
    study.suggest("b")
    for trial_id in "ab":
        with pytest.raises(KeyboardInterrupt):
            recorder.on_trial_start(0, [], SimpleNamespace(trial_id=trial_id))  # type: ignore[arg-type]
    recorder.close("KILLED")
    assert sorted(tracker.seen) == [("finish", "run-of-trial-0", "KILLED"), ("finish", "run-of-trial-1", "KILLED")]


def test_whoever_watches_sees_each_change_of_a_trial_and_no_other_trial(study: StudySearch) -> None:
    seen: list[tuple[int, int]] = []
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda r: seen.append((r.number, len(r.history))))  # type: ignore[arg-type]
    study.suggest("b")
    trials: list[Any] = [SimpleNamespace(trial_id=trial_id, last_result=epoch(1, 0.5)) for trial_id in "ab"]
    for trial in trials:
        recorder.on_trial_start(0, [], trial)
    recorder.on_trial_result(0, [], trials[1], epoch(1, 0.5))
    recorder.on_trial_complete(0, [], trials[1])
    assert seen == [(0, 0), (1, 0), (1, 1), (1, 1)]
    recorder.close("KILLED")


def test_the_best_checkpoint_is_that_of_the_best_epoch_and_the_latest_that_of_the_last(study: StudySearch) -> None:
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda record: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="a", last_result={})
    recorder.on_trial_start(0, [], trial)
    for number, accuracy in enumerate((0.5, 0.9, 0.8), start=1):
        trial.last_result = epoch(number, accuracy)
        recorder.on_trial_result(0, [], trial, trial.last_result)
        recorder.on_checkpoint(0, [], trial, stored(f"/checkpoint-{number}"))
    recorder.close("KILLED")
    record = study.record("a")
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
        recorder.on_trial_result(0, [], trial, trial.last_result)
        recorder.on_checkpoint(0, [], trial, stored(f"/checkpoint-{number}"))
    recorder.close("KILLED")
    (record,) = study.records()
    assert record.fallback_checkpoint == fallback


def test_of_all_ended_trials_the_best_alone_keeps_a_checkpoint(study: StudySearch, tmp_path: Path) -> None:
    """The third ties with the first, which stays; the fourth is better, but failed."""
    recorder = TrialRecorder(study, FakeTracker(), "parent", lambda record: None)  # type: ignore[arg-type]
    kept = []
    for trial_id, accuracy, failure in (("a", 0.8, None), ("b", 0.5, None), ("c", 0.8, None), ("d", 0.9, "diverged")):
        if trial_id != "a":  # the fixture's
            study.suggest(trial_id)
        checkpoint = tmp_path / trial_id / "checkpoint_000000"
        checkpoint.mkdir(parents=True)
        seal(checkpoint)
        trial: Any = SimpleNamespace(trial_id=trial_id, last_result=epoch(1, accuracy))
        recorder.on_trial_start(0, [], trial)
        study.on_trial_result(trial_id, trial.last_result)
        recorder.on_trial_result(0, [], trial, trial.last_result)
        recorder.on_checkpoint(0, [], trial, stored(str(checkpoint)))
        study.on_trial_complete(trial_id, {FAILURE: failure} if failure else trial.last_result)
        recorder.on_trial_complete(0, [], trial)
        kept.append(sorted(path.parent.name for path in tmp_path.glob("*/checkpoint_000000")))
    recorder.close("FINISHED")
    assert kept == [["a"], ["a"], ["a"], ["a"]]
    assert TrialRecorder(study, FakeTracker(), "parent", lambda record: None)._leader[0].number == 0  # type: ignore[arg-type]
