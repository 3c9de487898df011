import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import score
from common.recipe import Gate
from tune.gate import Indices, Rivalry, Verdict, judge, paired_bootstrap

ACTUAL = np.arange(300) % 3


def with_errors(count: int, start: int = 0) -> Indices:
    """Answers of which `count`, from row `start`, are wrong."""
    predicted = ACTUAL.copy()
    predicted[start : start + count] = (predicted[start : start + count] + 1) % 3
    return predicted


def rivalry(predicted: Indices, rows: np.ndarray | None = None) -> Rivalry:
    rows = np.ones(len(ACTUAL), dtype=bool) if rows is None else rows
    return Rivalry(version=4, predicted=predicted[rows], rows=rows)


def verdict(gate: Gate, predicted: Indices, champion: Rivalry | None, **more) -> Verdict:
    return judge(gate, predicted, ACTUAL, 3, rivalry=champion, **more)


def test_without_a_champion_a_candidate_passes() -> None:
    said = verdict(Gate(), with_errors(30), None, test_split_uses=2)

    assert said.passed
    assert (said.candidate, said.champion, said.difference, said.interval) == (0.9, None, None, None)
    assert (said.rows, said.excluded_rows, said.test_split_uses) == (300, 0, 2)
    assert "no champion" in said.reason


def test_a_clearly_better_candidate_passes() -> None:
    said = verdict(Gate(), with_errors(15), rivalry(with_errors(60)))

    assert said.passed
    assert said.difference == pytest.approx(0.15)
    assert said.interval is not None
    assert 0 < said.interval[0] < 0.15 < said.interval[1]
    assert "0.9500 on 300 test rows against 0.8000 of version 4: +0.1500, 95% interval [+0." in said.reason


@pytest.mark.parametrize("errors", [15, 16, 40])
def test_an_equal_a_barely_better_and_a_worse_candidate_do_not_pass(errors: int) -> None:
    said = verdict(Gate(), with_errors(errors), rivalry(with_errors(16, start=100)))

    assert not said.passed
    assert "the interval does not lie above +0" in said.reason


def test_a_recipe_may_tolerate_a_small_loss() -> None:
    same = rivalry(with_errors(20))

    assert verdict(Gate(min_improvement=-0.01), with_errors(20), same).passed
    assert not verdict(Gate(min_improvement=0.0), with_errors(20), same).passed


def test_a_candidate_below_the_minimum_never_passes() -> None:
    said = verdict(Gate(minimum=0.95), with_errors(30), None)

    assert not said.passed
    assert "accuracy 0.9000 is below the gate's minimum 0.95" in said.reason


def test_rows_the_champion_was_trained_on_count_for_neither() -> None:
    fair = np.arange(300) >= 100  # the champion knows the first 100 rows by heart

    said = verdict(Gate(), with_errors(100), rivalry(with_errors(50, start=100), fair))

    assert (said.rows, said.excluded_rows) == (200, 100)
    assert said.candidate == 1.0
    assert said.champion == 0.75
    assert said.passed


def test_a_champion_trained_on_every_test_row_cannot_be_replaced() -> None:
    said = verdict(Gate(), ACTUAL, rivalry(ACTUAL, np.zeros(300, dtype=bool)))

    assert not said.passed
    assert (said.rows, said.excluded_rows, said.interval) == (0, 300, None)
    assert "every test row was in the champion's training data" in said.reason


def test_a_failed_quick_check_closes_the_gate() -> None:
    said = verdict(Gate(), ACTUAL, None, quick_check_failures=["quick check 'x' gave 'a', not 'b'"])

    assert not said.passed
    assert said.reason.endswith("quick check 'x' gave 'a', not 'b'")


def test_macro_f1_is_compared_when_the_recipe_says_so() -> None:
    said = verdict(Gate(metric="macro_f1"), with_errors(15), rivalry(with_errors(60)))

    assert said.metric == "macro_f1"
    assert said.candidate == pytest.approx(score("macro_f1", with_errors(15), ACTUAL, 3))
    assert said.passed


def test_the_interval_is_the_same_each_time() -> None:
    sides = (with_errors(15), with_errors(60), ACTUAL, 3, 0.95)

    assert paired_bootstrap("accuracy", *sides) == paired_bootstrap("accuracy", *sides)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_the_interval_is_that_of_resampling_the_rows_one_by_one(metric: str) -> None:
    candidate, champion = with_errors(30), with_errors(45, start=15)
    random = np.random.default_rng(0)
    differences = []
    for _ in range(2000):
        rows = random.integers(0, len(ACTUAL), len(ACTUAL))
        ours, theirs = (score(metric, side[rows], ACTUAL[rows], 3) for side in (candidate, champion))
        differences.append(ours - theirs)

    interval = paired_bootstrap(metric, candidate, champion, ACTUAL, 3, 0.9)

    assert interval == pytest.approx(tuple(np.quantile(differences, [0.05, 0.95])), abs=0.006)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_hundreds_of_labels_are_compared_in_no_time(metric: str) -> None:
    actual = np.arange(800) % 400
    wrong = (actual + 1) % 400

    low, high = paired_bootstrap(metric, actual, np.where(np.arange(800) < 80, wrong, actual), actual, 400, 0.95)

    assert 0.07 < low < high < 0.16


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 60))
def test_swapping_the_sides_mirrors_the_difference(seed: int, num_labels: int, num_rows: int) -> None:
    random = np.random.default_rng(seed)
    actual, ours, theirs = random.integers(0, num_labels, (3, num_rows))

    low, high = paired_bootstrap("accuracy", ours, theirs, actual, num_labels, 0.95)
    mirrored_low, mirrored_high = paired_bootstrap("accuracy", theirs, ours, actual, num_labels, 0.95)

    assert -1 <= low <= high <= 1
    assert (low, high) == pytest.approx((-mirrored_high, -mirrored_low), abs=3 / num_rows)
