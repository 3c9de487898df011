"""A sweep is continued with what it was started with; a refusal names what differs and nothing else."""

from pathlib import Path

import pytest

from common.errors import InputError
from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from scripts.steps import prepare_data
from tests.small_job import small_job
from tune.identity import differences, refuse_changes
from tune.study import StudySearch, journal


def recipe(*overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()["quickstart"], overrides)


def resume(folder: Path, *overrides: str, data: str = "a" * 64) -> None:
    changed = recipe(*overrides)
    study = StudySearch(changed.search, name="sweep-1", storage=journal(folder / "study.journal"), epochs=4)
    refuse_changes(study, changed, data, str(folder))


def test_a_changed_setting_is_refused_by_name_and_the_others_are_not_shown(tmp_path: Path) -> None:
    resume(tmp_path)
    with pytest.raises(InputError) as caught:
        resume(tmp_path, "train.epochs=2", "search.space.batch_size={int: [8, 16]}")
    lines = str(caught.value).splitlines()
    assert lines[0] == "sweep sweep-1 was started with another recipe:"
    assert lines[1:-1] == [
        "  train.epochs: 4 -> 2",
        "  search.space.batch_size.int: null -> [8, 16]",
        "  search.space.batch_size.choice: [16, 32, 64] -> null",
    ]
    assert "without --resume" in lines[-1]


def test_changed_data_are_refused(tmp_path: Path) -> None:
    resume(tmp_path)
    with pytest.raises(InputError, match=r"other data: the rows' digest was a{16} and is b{16}"):
        resume(tmp_path, data="b" * 64)


def test_what_became_of_the_rows_is_said_where_the_storage_holds_both(tmp_path: Path) -> None:
    before, after = small_job(tmp_path), small_job(tmp_path, "data.split.seed=23")
    resume(Path(before.storage), data=prepare_data(before).data_digest)
    with pytest.raises(InputError, match=r"(\n  \d+ \w+ rows moved to another split: .*)+\nStart a new sweep"):
        resume(Path(before.storage), data=prepare_data(after).data_digest)


@pytest.mark.parametrize(
    "override",
    [
        "search.num_trials=50",
        "search.time_budget_s=9",
        "search.max_concurrent=1",
        "search.confirm={top: 2}",
        "train.placement=spread",
    ],
)
def test_more_trials_time_confirmation_or_other_nodes_are_no_other_sweep(override: str, tmp_path: Path) -> None:
    resume(tmp_path)
    resume(tmp_path, override)


def test_differences_name_only_what_differs() -> None:
    assert differences({"a": {"b": 1, "c": [1]}}, {"a": {"b": 2, "c": [1]}, "d": "x"}) == [
        "a.b: 1 -> 2",
        'd: null -> "x"',
    ]
