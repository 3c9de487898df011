"""What a trial draws from a recipe's search space."""

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.search_range import Range
from common.search_settings import Search
from tune.search_space import draw

WHOLE = st.integers(1, 1000)
FRACTION = st.floats(1e-6, 1e3, allow_nan=False)


def ordered(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=2, max_size=2, unique=True).map(sorted)


RANGES = st.one_of(
    ordered(FRACTION).map(lambda ends: {"log_uniform": ends}),
    ordered(FRACTION).map(lambda ends: {"uniform": ends}),
    ordered(WHOLE).map(lambda ends: {"int": ends}),
    ordered(WHOLE).map(lambda ends: {"log_int": ends}),
    st.lists(st.one_of(WHOLE, st.sampled_from(["fp32", "bf16"])), min_size=1, unique=True).map(
        lambda values: {"choice": values}
    ),
    WHOLE.map(lambda value: {"fixed": value}),
)


def drawn(search: Search, num_trials: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    found = []
    for _ in range(num_trials):
        trial = study.ask()
        draw(trial, search)
        found.append(trial.params)
    return found


@given(space=st.dictionaries(st.sampled_from("abcd"), RANGES, min_size=1), seed=st.integers(0, 100))
def test_suggestions_stay_in_the_range(space: dict[str, Any], seed: int) -> None:
    search = Search.model_validate({"space": space})
    (params,) = drawn(search, seed=seed)
    assert set(params) == set(space)
    assert all(search.space[name].holds(value) for name, value in params.items())


@given(values=RANGES)
def test_a_range_holds_its_bounds_and_nothing_beyond(values: dict[str, Any]) -> None:
    found = Range.model_validate(values)
    assert all(found.holds(bound) for bound in found.bounds())
    if found.interval:
        low, high = found.interval
        assert not found.holds(low - 1)
        assert not found.holds(high + 1)
        assert not found.holds("text")
        assert found.is_continuous or not found.holds(low + 0.5)


@given(
    parents=st.lists(st.sampled_from([8, 16, 32]), min_size=1, unique=True),
    accepted=st.lists(st.sampled_from([8, 16, 32]), min_size=1, unique=True),
    seed=st.integers(0, 50),
)
def test_a_conditional_setting_is_drawn_exactly_when_its_condition_holds(
    parents: list[int], accepted: list[int], seed: int
) -> None:
    space: dict[str, Any] = {  # the child stands first: the order in the recipe does not matter
        "warmup_ratio": {"uniform": [0.0, 0.2], "when": {"batch_size": accepted}},
        "batch_size": {"choice": parents},
    }
    if set(accepted) <= set(parents):
        for params in drawn(Search.model_validate({"space": space}), num_trials=5, seed=seed):
            assert ("warmup_ratio" in params) == (params["batch_size"] in accepted)
    else:
        with pytest.raises(ValueError, match="never drawn"):
            Search.model_validate({"space": space})


def test_a_condition_on_a_setting_that_is_not_searched_in_a_trial_does_not_hold() -> None:
    search = Search.model_validate(
        {
            "space": {
                "precision": {"choice": ["fp32", "bf16"]},
                "epochs": {"int": [1, 2], "when": {"precision": "bf16"}},
                "warmup_ratio": {"fixed": 0.1, "when": {"epochs": [1, 2]}},
            }
        }
    )
    for params in drawn(search, num_trials=20):
        assert (set(params) == {"precision", "epochs", "warmup_ratio"}) == (params["precision"] == "bf16")


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "names no setting to search"),
        ({"a": {"fixed": 1, "when": {"b": [1]}}}, "space.a.when names b, which is not searched; search.space has a"),
        ({"a": {"fixed": 1, "when": {"b": [0.5]}}, "b": {"uniform": [0, 1]}}, "hardly a value is drawn twice"),
        (
            {"a": {"fixed": 1, "when": {"b": [64]}}, "b": {"choice": [16, 32]}},
            r"asks for b 64, which is never drawn from choice: \[16, 32\]",
        ),
        (
            {"a": {"fixed": 1, "when": {"b": [1]}}, "b": {"fixed": 1, "when": {"a": [1]}}},
            "the conditions of a, b wait for each other",
        ),
        ({"a": {"fixed": 1, "when": {"a": [1]}}}, "the conditions of a wait for each other"),
        ({"a": {"when": {"b": [1]}}, "b": {"fixed": 1}}, "exactly one of"),
        ({"a": {"fixed": 1, "when": {"b": []}}, "b": {"fixed": 1}}, "at least 1 item"),
        ({"a": {"choice": [float("inf")]}}, "finite"),
        ({"a": {"choice": [True]}}, "a number or a text"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_refused(space: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Search.model_validate({"space": space})


def test_numbers_that_yaml_takes_for_texts_are_numbers_and_texts_stay() -> None:
    found = Range.model_validate({"choice": ["1e-5", "3", "bf16"]})
    assert found.choice == (1e-5, 3, "bf16")
    assert [type(value) for value in found.bounds()] == [float, int, str]


@pytest.mark.parametrize("kind", ["log_uniform", "log_int"])
def test_a_logarithmic_range_is_sampled_evenly_by_magnitude(kind: str) -> None:
    search = Search.model_validate({"space": {"x": {kind: [1, 10000]}}})
    assert 60 < sum(params["x"] < 100 for params in drawn(search, num_trials=200)) < 140


def test_a_point_is_drawn_as_it_is_and_what_it_does_not_name_is_sampled() -> None:
    search = Search.model_validate(
        {"space": {"x": {"uniform": [0, 1]}, "y": {"int": [1, 9], "when": {"z": [1]}}, "z": {"choice": [0, 1]}}}
    )
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.25, "z": 1, "y": 7})
    study.enqueue_trial({"z": 0})
    full, partial = study.ask(), study.ask()
    for trial in (full, partial):
        draw(trial, search)
    assert full.params == {"x": 0.25, "z": 1, "y": 7}
    assert set(partial.params) == {"x", "z"}


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"x": 2.0}, r"x 2.0 lies outside search.space, uniform: \[0.0, 1.0\]"),
        ({"w": 1}, "w is not searched; search.space has x, y, z"),
        ({"y": 3}, "y is searched only when z is 1; leave it out, or name that too"),
        ({"y": 3, "z": 0}, "y is searched only when z is 1"),
        ({"y": 3.5, "z": 1}, "y 3.5 lies outside"),
    ],
)
def test_a_point_that_no_trial_can_have_is_refused(point: dict[str, Any], said: str) -> None:
    space = {"x": {"uniform": [0, 1]}, "y": {"int": [1, 9], "when": {"z": 1}}, "z": {"choice": [0, 1]}}
    with pytest.raises(ValueError, match=said):
        Search.model_validate({"space": space, "warm_start": [{"x": 0.5}, point]})


def test_more_points_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="2 points for num_trials 1"):
        Search.model_validate({"warm_start": [{"batch_size": 16}, {"batch_size": 32}], "num_trials": 1})
