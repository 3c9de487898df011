"""When a candidate passes, when it fails, and when neither can be said yet."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.comparison import MAX_LATENCIES, Comparison, Side, Verdict


def comparison(**changes: object) -> Comparison:
    """As many requests compared as are wanted, all alike."""
    found = Comparison(min_requests=200, min_agreement=0.8)
    for _ in range(1800):
        found.champion.answered(0.01)
    for _ in range(200):
        found.candidate.answered(0.01)
        found.compared(1.0)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def verdict(found: Comparison) -> Verdict:
    reached = found.verdict()
    assert reached is not None
    return reached


def test_a_candidate_that_is_like_the_champion_passes_once_enough_was_compared() -> None:
    found = comparison()
    assert verdict(found).passed
    assert "200 requests were compared: agreement 1.000, errors 0 % against 0 %" in verdict(found).reason

    found.num_compared -= 1
    assert found.verdict() is None


def test_a_candidate_that_fails_is_rolled_back_after_a_few_requests() -> None:
    found = Comparison(min_requests=200, min_agreement=0.8)
    for _ in range(50):
        found.champion.answered(0.01)
    for _ in range(5):
        found.candidate.failed()

    assert not verdict(found).passed
    assert "it failed 5 of 5 requests, and the champion 0 of 50" in verdict(found).reason


def test_a_candidate_that_fails_as_often_as_the_champion_is_not_blamed() -> None:
    found = comparison()
    for _ in range(180):
        found.champion.failed()
    for _ in range(20):
        found.candidate.failed()

    assert verdict(found).passed


def test_a_slow_candidate_is_rolled_back() -> None:
    found = comparison(candidate=Side(200, 0, [0.03] * 200))

    assert not verdict(found).passed
    assert "latency is 30 ms, and the champion's 10 ms; 2 times that is allowed" in verdict(found).reason


def test_a_candidate_that_is_a_little_slower_passes() -> None:
    assert verdict(comparison(candidate=Side(200, 0, [0.018] * 200))).passed


def test_a_few_slow_answers_are_no_reason() -> None:
    """Loading the model is part of a version's first answers."""
    assert verdict(comparison(candidate=Side(200, 0, [3.0] * 4 + [0.01] * 196))).passed


def test_a_candidate_that_disagrees_is_rolled_back_before_all_is_compared() -> None:
    found = Comparison(min_requests=200, min_agreement=0.8)
    for _ in range(20):
        found.compared(0.25)

    assert not verdict(found).passed
    assert "the champion's for 25 % of the texts in 20 requests; 80 % are wanted" in verdict(found).reason


def test_between_passing_and_failing_the_comparison_goes_on() -> None:
    disagreeing = Comparison(min_requests=200, min_agreement=0.8)
    for _ in range(200):
        disagreeing.compared(0.79)
    assert disagreeing.verdict() is None

    slow_by_few = comparison(champion=Side(20, 0, [0.01] * 20), candidate=Side(200, 0, [0.03] * 200))
    assert slow_by_few.verdict() is None


def test_good_candidates_are_rarely_rolled_back_however_often_one_looks() -> None:
    drawn = random.Random(3)
    num_rolled_back = 0
    for _ in range(40):
        found = Comparison(min_requests=10_000, min_agreement=0.8)
        for number in range(400):
            for side in (found.champion, found.candidate):
                if drawn.random() < 0.02:
                    side.failed()
                else:
                    side.answered(drawn.expovariate(100))
            found.compared(float(drawn.random() < 0.85))
            if number % 20 == 0 and found.verdict() is not None:
                num_rolled_back += 1
                break

    assert num_rolled_back <= 2


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 300), st.lists(st.floats(0, 1)))
def test_no_verdict_is_reached_by_few_requests_unless_something_is_wrong(
    champion_errors: int, champion: int, candidate_errors: int, candidate: int, agreements: list[float]
) -> None:
    found = Comparison(200, 0.8, Side(champion_errors + champion, champion_errors), Side(candidate_errors + candidate))
    found.candidate.num_errors = candidate_errors
    for agreement in agreements:
        found.compared(agreement)

    reached = found.verdict()
    if reached is not None and not reached.passed:
        rates = (found.candidate.error_rate or 0.0, found.champion.error_rate or 0.0)
        assert rates[0] > rates[1] or (found.agreement or 0.0) < 0.8
    if reached is not None and reached.passed:
        assert found.num_compared >= 200


def test_percentiles_are_of_what_was_answered() -> None:
    side = Side()
    assert (side.error_rate, side.latency_s(0.5)) == (None, None)
    for number in range(1, 101):
        side.answered(number / 100)
    side.answered(None)  # a wake
    side.failed()

    assert (side.latency_s(0.5), side.latency_s(0.95)) == (0.5, 0.95)
    assert (side.num_requests, side.num_errors) == (102, 1)
    assert side.error_rate == pytest.approx(1 / 102)


def test_memory_stays_bounded() -> None:
    side = Side()
    for _ in range(MAX_LATENCIES + 5):
        side.answered(0.1)

    assert len(side.latencies_s) == MAX_LATENCIES
    assert side.num_requests == MAX_LATENCIES + 5
