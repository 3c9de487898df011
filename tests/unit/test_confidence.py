"""The bounds hold at every look at once, with the probability that is stated, and narrow as more is seen."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.confidence import mean_bounds, quantile_bounds


@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.9, 0.99, 0.999]))
def test_bounds_of_a_mean_hold_the_mean_that_was_seen(num: int, share: float, confidence: float) -> None:
    total = share * num
    low, high = mean_bounds(total, num, confidence)

    assert 0.0 <= low <= total / num + 1e-9
    assert total / num - 1e-9 <= high <= 1.0


@given(st.integers(0, 200), st.integers(0, 200))
def test_bounds_of_yes_and_no_mirror_each_other(yes: int, no: int) -> None:
    low, high = mean_bounds(yes, yes + no, 0.99)
    mirrored_low, mirrored_high = mean_bounds(no, yes + no, 0.99)

    assert low == pytest.approx(1 - mirrored_high, abs=1e-6)
    assert high == pytest.approx(1 - mirrored_low, abs=1e-6)


def test_nothing_is_known_before_the_first_observation() -> None:
    assert mean_bounds(0, 0, 0.99) == (0.0, 1.0)
    assert quantile_bounds([], 0.95, 0.99) == (-math.inf, math.inf)


def test_bounds_narrow_as_more_is_seen() -> None:
    widths = [high - low for low, high in (mean_bounds(0.9 * num, num, 0.99) for num in (10, 100, 1000, 10_000))]

    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


def test_the_bound_is_where_the_evidence_reaches_one_in_alpha() -> None:
    """Five failures of five: the mixture is B(5.5, 0.5) / B(0.5, 0.5) = 63/256, a hundredth of which is p^5."""
    low, high = mean_bounds(5, 5, 0.99)

    assert low == pytest.approx((0.01 * 63 / 256) ** 0.2)
    assert high == 1.0


@pytest.mark.parametrize("fractions", [False, True])
def test_stopping_at_the_first_alarm_is_wrong_no_oftener_than_stated(fractions: bool) -> None:
    drawn, mean, confidence, num_runs = random.Random(1), 0.8, 0.9, 100
    num_wrong = 0
    for _ in range(num_runs):
        total = 0.0
        for num in range(1, 301):
            total += sum(drawn.random() < mean for _ in range(4)) / 4 if fractions else drawn.random() < mean
            low, high = mean_bounds(total, num, confidence) if num % 20 == 0 else (0.0, 1.0)
            if not low <= mean <= high:
                num_wrong += 1
                break

    assert num_wrong <= num_runs * (1 - confidence)


@given(st.lists(st.floats(0, 100), max_size=300), st.sampled_from([0.5, 0.95]))
def test_bounds_of_a_quantile_are_values_in_order(values: list[float], quantile: float) -> None:
    low, high = quantile_bounds(values, quantile, 0.99)

    assert low <= high
    assert {low, high} <= {*values, -math.inf, math.inf}


def test_bounds_of_a_quantile_hold_it_and_need_enough_values() -> None:
    values = [number / 1000 for number in range(1, 1001)]

    low, high = quantile_bounds(values, 0.95, 0.99)

    assert 0.9 < low < 0.95 < high < 0.98
    assert quantile_bounds(values[:50], 0.95, 0.99)[1] == math.inf
    assert quantile_bounds([1.0] * 5, 0.95, 0.99)[0] == 1.0
