"""The study is the record of a sweep: what an end of the driver leaves, the next one continues."""

from pathlib import Path

import pytest
from optuna.trial import TrialState

from common.search_range import Range
from common.search_settings import Search
from tune.study import FAILURE, StudySearch, journal

SEARCH = Search(num_trials=6, space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})


def open_study(folder: Path, search: Search = SEARCH) -> StudySearch:
    return StudySearch(search, name="sweep", storage=journal(folder / "study.journal"), epochs=3)


def epoch(number: int, accuracy: float) -> dict[str, float]:
    return {"epoch": number, "accuracy": accuracy, "loss": 1 - accuracy}


def report(study: StudySearch, trial: str, *accuracies: float) -> dict[str, float]:
    result = {}
    for number, accuracy in enumerate(accuracies, start=1):
        result = epoch(number, accuracy)
        study.on_trial_result(trial, result)
        study.record_epoch(trial, result)
    return result


def states(study: StudySearch) -> list[str]:
    return [record.state for record in study.records()]


def test_a_trial_that_ran_all_epochs_is_complete_with_its_best_value(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.suggest("a")
    study.on_trial_complete("a", report(study, "a", 0.5, 0.9, 0.8))
    trial = study.study.get_trials()[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.9)


def test_a_trial_that_asha_stopped_is_pruned_with_its_intermediate_values(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.suggest("a")
    report(study, "a", 0.5)
    study.on_trial_complete("a", epoch(2, 0.6))  # Tune reports the epoch that the scheduler stops at only here
    trial = study.study.get_trials()[0]
    assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, {1: 0.5, 2: 0.6})


def test_a_failure_is_told_with_its_reason(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.suggest("a")
    report(study, "a", 0.5)
    study.on_trial_complete("a", {FAILURE: "loss is NaN"})
    study.suggest("b")
    study.on_trial_complete("b", error=True)
    assert states(study) == ["failed", "failed"]
    assert study.records()[0].failure == "loss is NaN"
    assert study.num_finished == 2


def test_an_interrupted_trial_is_suggested_again_first_with_its_checkpoint(tmp_path: Path) -> None:
    before = open_study(tmp_path)
    suggested = before.suggest("a")
    before.suggest("b")
    before.on_trial_complete("b", report(before, "b", 0.1, 0.2, 0.3))
    report(before, "a", 0.5)
    before.record_checkpoint("a", 1, "/checkpoints/a/1")
    assert suggested is not None

    after = open_study(tmp_path)
    again = after.suggest("c")
    assert again == {**suggested, "resume_from": ["/checkpoints/a/1"]}
    after.on_trial_complete("c", report(after, "c", 0.5, 0.6, 0.7))
    assert states(after) == ["complete", "complete"]
    new = after.suggest("d")
    assert new is not None
    assert new["name"] == "trial-2"


def test_a_trial_cut_off_after_its_last_epoch_is_complete_and_not_repeated(tmp_path: Path) -> None:
    before = open_study(tmp_path)
    before.suggest("a")
    before.record_run("trial-0", "run-of-a")
    report(before, "a", 0.5, 0.6, 0.7)
    before.record_checkpoint("a", 3, "/checkpoints/a/3")
    after = open_study(tmp_path)
    assert states(after) == ["running"]  # reading a study changes nothing
    finished: list[str] = []
    after.settle(finished.append)
    assert finished == ["run-of-a"]
    assert states(after) == ["complete"]
    suggested = after.suggest("b")
    assert suggested is not None
    assert suggested["name"] == "trial-1"


def test_a_run_may_be_noted_after_its_trial_has_ended(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for trial in "ab":
        study.suggest(trial)
    study.on_trial_complete("b", report(study, "b", 0.5, 0.6, 0.7))
    study.record_run("trial-1", "run-of-b")
    assert [record.run_id for record in open_study(tmp_path).records()] == [None, "run-of-b"]
    assert study.record("b").run_id == "run-of-b"


def test_a_trial_whose_last_checkpoint_was_not_recorded_trains_its_last_epoch_again(tmp_path: Path) -> None:
    before = open_study(tmp_path)
    before.suggest("a")
    report(before, "a", 0.5, 0.6, 0.7)
    before.record_checkpoint("a", 2, "/checkpoints/a/2")
    after = open_study(tmp_path)
    after.settle(lambda run_id: pytest.fail("its last checkpoint is missing"))
    again = after.suggest("b")
    assert again is not None
    assert (again["name"], again["resume_from"]) == ("trial-0", ["/checkpoints/a/2"])
    after.on_trial_complete("b", epoch(3, 0.7))
    assert states(after) == ["complete"]


def test_trials_that_a_time_budget_stopped_are_told(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.suggest("a")
    study.suggest("b")
    report(study, "a", 0.5)
    study.end_unfinished()
    assert states(study) == ["pruned", "failed"]


def test_telling_a_finished_trial_again_changes_nothing(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.suggest("a")
    study.on_trial_complete("a", report(study, "a", 0.5, 0.9, 0.8))
    study.on_trial_complete("a", error=True)
    assert states(study) == ["complete"]


def test_a_resumed_sampler_does_not_repeat_its_start_up_trials(tmp_path: Path) -> None:
    before = open_study(tmp_path)
    first = before.suggest("a")
    before.on_trial_complete("a", report(before, "a", 0.5, 0.6, 0.7))
    second = open_study(tmp_path).suggest("b")
    assert first is not None
    assert second is not None
    assert first["params"] != second["params"]


def test_the_same_seed_suggests_the_same_trials(tmp_path: Path) -> None:
    one, other = open_study(tmp_path / "one"), open_study(tmp_path / "other")
    assert [one.suggest(str(n)) for n in range(3)] == [other.suggest(str(n)) for n in range(3)]


def test_searched_epochs_decide_when_a_trial_is_complete(tmp_path: Path) -> None:
    study = open_study(tmp_path, Search(space={"epochs": Range(fixed=1)}))
    study.suggest("a")
    study.on_trial_complete("a", report(study, "a", 0.5))
    assert states(study) == ["complete"]


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 0.9), ("loss", 0.1)])
def test_a_trial_is_ranked_by_the_epoch_of_its_checkpoint(metric: str, best: float, tmp_path: Path) -> None:
    study = open_study(tmp_path, SEARCH.model_copy(update={"metric": metric}))
    study.suggest("a")
    for number, accuracy in enumerate((0.5, 0.9, 0.8), start=1):
        study.record_epoch("a", epoch(number, accuracy))
    assert study.record("a").metrics == {}  # of no epoch is there a checkpoint
    for number in (1, 2, 3):
        study.record_checkpoint("a", number, f"/checkpoints/a/{number}")
    record = study.record("a")
    assert record.metrics[metric] == pytest.approx(best)
    assert (record.checkpoint, record.latest_checkpoint) == ("/checkpoints/a/2", "/checkpoints/a/3")
    assert [metrics["epoch"] for metrics in record.history] == [1, 2, 3]


def test_starting_points_come_first_and_once_however_often_the_sweep_is_resumed(tmp_path: Path) -> None:
    points = [{"learning_rate": 2e-4}, {"learning_rate": 5e-4}]
    for _ in range(2):
        study = open_study(tmp_path)
        study.start_from(points)
    assert study.records() == []  # what waits is not a trial yet
    suggested = [study.suggest(name) for name in "abc"]
    rates = [entry["params"]["learning_rate"] for entry in suggested if entry is not None]
    assert rates[:2] == [2e-4, 5e-4]
    assert rates[2] not in rates[:2]
    study.on_trial_complete("a", report(study, "a", 0.5, 0.6, 0.7))
    assert study.num_missing == SEARCH.num_trials - 1


def test_an_interrupted_trial_whose_parameters_were_not_all_drawn_is_drawn_to_the_end(tmp_path: Path) -> None:
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3)), "batch_size": Range(choice=(16, 32))})
    before = open_study(tmp_path, search)
    before.study.ask().suggest_float("learning_rate", 1e-5, 1e-3, log=True)
    drawn = before.records()[0].params
    again = open_study(tmp_path, search).suggest("a")
    assert again is not None
    assert again["params"]["learning_rate"] == drawn["learning_rate"]
    assert set(again["params"]) == {"learning_rate", "batch_size"}
