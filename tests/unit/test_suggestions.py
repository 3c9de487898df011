"""The trials that Tune gets of a study."""

from pathlib import Path
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune import PlacementGroupFactory

from common.search_range import Range
from common.search_settings import Search
from tune.study import StudySearch, journal
from tune.suggestions import Suggestions, SweepTrial


class Process:
    """In place of what runs trials."""


@pytest.fixture
def suggestions(tmp_path: Path) -> Suggestions:
    search = Search(space={"learning_rate": Range(log_uniform=(1e-5, 1e-3))})
    study = StudySearch(search, name="sweep", storage=journal(tmp_path / "study.journal"), epochs=1)
    storage = StorageContext(str(tmp_path), "trials")
    held = PlacementGroupFactory([{"CPU": 1}])

    def make_trial(trial_id: str, config: dict[str, Any]) -> SweepTrial:
        return SweepTrial(
            Process, "trial", trial_id=trial_id, config=config, storage=storage, placement_group_factory=held
        )

    return Suggestions(study, make_trial, num_trials=3, max_concurrent=2)


def result(accuracy: float) -> dict[str, float]:
    return {"epoch": 1, "accuracy": accuracy}


def test_as_many_trials_run_at_once_as_may_and_no_more_start_than_are_asked_for(suggestions: Suggestions) -> None:
    first, second = suggestions.next_trial(), suggestions.next_trial()
    assert first is not None
    assert second is not None
    assert suggestions.next_trial() is None
    suggestions.on_trial_complete(first.trial_id, result(0.5))
    third = suggestions.next_trial()
    assert third is not None
    assert suggestions.is_finished()
    suggestions.on_trial_complete(third.trial_id, result(0.6))
    assert suggestions.next_trial() is None


def test_no_trial_starts_once_time_is_up(suggestions: Suggestions) -> None:
    suggestions.set_finished()
    assert suggestions.next_trial() is None


def test_a_trial_holds_what_the_study_suggests_and_its_last_report(suggestions: Suggestions) -> None:
    trial = suggestions.next_trial()
    assert isinstance(trial, SweepTrial)
    assert trial.config["name"] == "trial-0"
    assert 1e-5 <= trial.config["params"]["learning_rate"] <= 1e-3
    trial.create_placement_group_factory()
    assert trial.placement_group_factory.bundles == [{"CPU": 1}]
    assert trial.get_trainable_cls() is Process
    trial.update_last_result(result(0.5))
    assert trial.last_result["accuracy"] == 0.5
    assert trial.metric_analysis == {}
