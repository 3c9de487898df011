"""After a driver was killed, whenever that was: one run a trial, none left open, no epoch missing and none twice."""

from pathlib import Path
from typing import Any

import pytest

from common.recipe import Range, Search
from common.tracking import Tracker, sqlite_uri
from tune.run_recovery import recover_runs
from tune.step_losses import STEP_LOSS
from tune.study import FAILURE, StudySearch, journal

SEARCH = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker.open(sqlite_uri(str(tmp_path_factory.mktemp("storage"))), "headlines")


def open_study(folder: Path) -> StudySearch:
    return StudySearch(SEARCH, name="sweep", storage=journal(folder / "study.journal"), epochs=3)


def epoch(number: int) -> dict[str, float]:
    return {"epoch": number, "accuracy": number / 10, "loss": 1.0}


def started(study: StudySearch, trial: str, tracker: Tracker, parent: str) -> str:
    study.suggest(trial)
    run_id = tracker.start(study.record(trial).name, parent_run_id=parent)
    study.record_run(study.record(trial).name, run_id)
    return run_id


def reported(study: StudySearch, trial: str, *numbers: int) -> None:
    for number in numbers:
        study.on_trial_result(trial, epoch(number))
        study.record_epoch(trial, epoch(number))


def run(tracker: Tracker, run_id: str) -> tuple[str, list[tuple[int, float]], dict[str, Any]]:
    found = tracker.client.get_run(run_id)
    history = tracker.client.get_metric_history(run_id, "accuracy")
    return found.info.status, [(point.step, point.value) for point in history], found.data.params


def test_a_run_that_was_not_ended_gets_what_it_lacks_and_its_end(tmp_path: Path, tracker: Tracker) -> None:
    parent = tracker.start("sweep")
    before = open_study(tmp_path)
    ended, failed, interrupted = (started(before, trial, tracker, parent) for trial in "abc")
    reported(before, "a", 1, 2, 3)
    tracker.log_metrics(ended, {"accuracy": 0.1, "loss": 1.0}, step=1)
    before.on_trial_complete("a", epoch(3))
    before.on_trial_complete("b", {FAILURE: "out of memory"})
    reported(before, "c", 1)

    after = open_study(tmp_path)
    for _ in range(2):  # the second time there is nothing to do
        recover_runs(after, tracker, parent)
    status, history, params = run(tracker, ended)
    assert (status, history) == ("FINISHED", [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))])
    assert float(params["learning_rate"]) == after.records()[0].params["learning_rate"]
    assert run(tracker, failed)[0] == "FAILED"
    assert run(tracker, interrupted)[:2] == ("RUNNING", [(1, 0.1)])


def test_a_run_gets_the_losses_of_steps_that_it_lacks_and_none_twice(tmp_path: Path, tracker: Tracker) -> None:
    parent = tracker.start("sweep")
    before = open_study(tmp_path)
    run_id = started(before, "a", tracker, parent)
    reported(before, "a", 1)
    before.record_step_losses("a", 1, {50: 0.9, 100: 0.8})
    tracker.log_metrics(run_id, {STEP_LOSS: 0.9}, step=50)

    for _ in range(2):
        recover_runs(open_study(tmp_path), tracker, parent)
    history = tracker.client.get_metric_history(run_id, STEP_LOSS)
    assert [(point.step, point.value) for point in history] == [(50, 0.9), (100, 0.8)]


def test_a_run_that_the_study_does_not_know_yet_becomes_its_trials(tmp_path: Path, tracker: Tracker) -> None:
    parent = tracker.start("sweep")
    before = open_study(tmp_path)
    before.suggest("a")
    run_id = tracker.start("trial-0", parent_run_id=parent)
    tracker.start("something else", parent_run_id=parent)

    after = open_study(tmp_path)
    recover_runs(after, tracker, parent)
    after.suggest("b")
    assert after.record("b").run_id == run_id


def test_a_trial_that_ended_before_its_run_was_started_gets_one(tmp_path: Path, tracker: Tracker) -> None:
    parent = tracker.start("sweep")
    before = open_study(tmp_path)
    for trial in "ab":
        before.suggest(trial)
        reported(before, trial, 1, 2, 3)
    before.on_trial_complete("a", epoch(3))

    after = open_study(tmp_path)
    for _ in range(2):
        recover_runs(after, tracker, parent)
    ended, running = after.records()
    assert running.run_id is None  # it gets its run when it goes on
    assert run(tracker, ended.run_id or "")[:2] == ("FINISHED", [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))])


def test_an_ended_run_is_left_alone(tmp_path: Path, tracker: Tracker) -> None:
    parent = tracker.start("sweep")
    before = open_study(tmp_path)
    run_id = started(before, "a", tracker, parent)
    reported(before, "a", 1)
    tracker.finish(run_id, "KILLED")
    recover_runs(open_study(tmp_path), tracker, parent)
    assert run(tracker, run_id)[:2] == ("KILLED", [])
