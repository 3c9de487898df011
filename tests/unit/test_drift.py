"""The drift figures: right, of the last texts only, taken back when their version is gone."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.validation_profile import ValidationProfile
from serve.batching import ServedVersion
from serve.drift import MIN_TEXTS, QUIET_S, READ_AGAIN_AFTER_S, DriftMonitor, Window, psi
from tests.answered import answer, answered

PROFILE = ValidationProfile({"bad": 50, "good": 50}, (0.7, 0.9), (20, 60, 20), 0.8)
SERVED = {"news": ServedVersion(3, "/storage/3/onnx")}

counts = st.lists(st.integers(0, 10_000), min_size=2, max_size=10)


class Metrics:
    """The last value of each figure of version 3, and of version 4."""

    def __init__(self) -> None:
        self.told: dict[int, dict[str, Any]] = {3: {}, 4: {}}

    def _note(self, name: str) -> Any:
        def note(endpoint: str, version: int, **figures: Any) -> None:
            assert endpoint == "news"
            self.told[version][name] = figures

        return note

    def __getattr__(self, name: str) -> Any:
        return self._note(name)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Seen:
    """A monitor with what it tells."""

    def __init__(self, profile: ValidationProfile | None = PROFILE) -> None:
        self.metrics, self.clock, self.profile, self.read_uris = Metrics(), Clock(), profile, []  # type: ignore[var-annotated]
        self.error: Exception | None = None
        self.monitor = DriftMonitor(self.metrics, self.read, self.clock)  # type: ignore[arg-type]

    def read(self, uri: str) -> ValidationProfile | None:
        self.read_uris.append(uri)
        if self.error:
            raise self.error
        return self.profile

    def ask(self, num_texts: int, label: str = "good", score: float = 0.75, version: int = 3) -> None:
        answers = [answer(label, score)] * num_texts
        self.monitor.answered(answered(*"a" * num_texts, answers=answers, version=version))

    def publish(self, served: dict[str, ServedVersion] = SERVED) -> dict[str, Any]:
        asyncio.run(self.monitor.publish(served))
        return self.metrics.told[3]


def test_the_index_is_that_of_the_literature() -> None:
    shares = [(0.5, 0.25), (0.5, 0.75)]
    expected = sum((a - e) * math.log(a / e) for a, e in shares)

    assert psi([10_000, 10_000], [5_000, 15_000]) == pytest.approx(expected, rel=1e-3)


@given(counts, st.integers(1, 100))
def test_equal_mixes_do_not_drift_whatever_their_number(mix: list[int], times: int) -> None:
    assert psi([10 * count for count in mix], [10 * count * times for count in mix]) < 0.5
    assert psi(mix, mix) == 0


@given(
    st.integers(2, 10).flatmap(
        lambda size: st.tuples(*[st.lists(st.integers(0, 10_000), min_size=size, max_size=size)] * 2)
    )
)
def test_the_index_is_finite_positive_and_symmetric(mixes: tuple[list[int], list[int]]) -> None:
    assert 0 <= psi(*mixes) < 100
    assert psi(*mixes) == pytest.approx(psi(*reversed(mixes)))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 1)), max_size=30))
@example([("a", 0.5), *[("b", 0.5)] * 10])
def test_a_window_is_about_the_last_texts_alone(answers: list[tuple[str, float]]) -> None:
    window = Window(size=10)
    for given_answer in answers:
        window.add(*given_answer)

    last = answers[-10:]
    assert window.scores == [score for _, score in last]
    assert +window.labels == {label: sum(found == label for found, _ in last) for label, _ in last}


def test_traffic_like_the_validation_split_shows_no_drift_and_other_traffic_does() -> None:
    seen = Seen()
    for label in ("bad", "good"):
        for score, number in ((0.6, 20), (0.8, 60), (0.95, 20)):
            seen.ask(number, label, score)
    same = seen.publish()
    assert same["answers"]["num_texts"] == 200
    assert same["answers"]["shares"] == {"bad": 0.5, "good": 0.5}
    assert same["answers"]["confidence"] == pytest.approx(0.79)
    assert same["validation"] == {"shares": {"bad": 0.5, "good": 0.5}, "confidence": 0.8}
    assert same["drift"] == pytest.approx({"labels": 0, "confidence": 0}, abs=1e-3)

    seen.ask(800, "good", 0.6)
    other = seen.publish()
    assert other["drift"]["labels"] > 0.25
    assert other["drift"]["confidence"] > 0.25


def test_a_label_that_the_validation_split_never_had_counts() -> None:
    window = Window()
    for _ in range(MIN_TEXTS):
        window.add("new", 0.8)

    assert window.label_psi(PROFILE) > 1


def test_few_texts_are_shown_and_not_compared() -> None:
    seen = Seen()
    seen.ask(MIN_TEXTS - 1)
    assert set(seen.publish()) == {"validation", "answers"}
    seen.ask(1)
    assert set(seen.publish()) == {"validation", "answers", "drift"}


def test_a_version_without_a_profile_is_shown_and_not_compared() -> None:
    seen = Seen(profile=None)
    seen.ask(MIN_TEXTS)

    assert set(seen.publish()) == {"answers"}
    seen.publish()
    assert seen.read_uris == ["/storage/3/onnx"]


def test_a_profile_that_cannot_be_read_is_asked_for_again_later() -> None:
    seen = Seen()
    seen.error = OSError("away")
    seen.ask(MIN_TEXTS)
    seen.publish()
    seen.publish()
    assert len(seen.read_uris) == 1

    seen.error, seen.clock.now = None, READ_AGAIN_AFTER_S
    seen.ask(1)
    assert "drift" in seen.publish()


def test_refused_requests_do_not_count() -> None:
    seen = Seen()
    seen.monitor.answered(answered("a", answers=(), status=429))

    assert seen.publish() == {}


def test_figures_are_told_again_though_nothing_new_was_asked() -> None:
    seen = Seen()
    seen.ask(MIN_TEXTS)
    told = dict(seen.publish())
    seen.metrics.told[3].clear()

    assert set(told) == {"answers", "validation", "drift"}
    assert seen.publish() == told


def test_figures_of_a_version_that_was_replaced_go_when_it_has_been_quiet() -> None:
    seen = Seen()
    seen.ask(MIN_TEXTS)
    seen.publish()
    moved = {"news": ServedVersion(4, "/storage/4/onnx")}

    seen.clock.now = QUIET_S
    seen.publish(moved)
    assert seen.metrics.told[3]["answers"]["num_texts"] == MIN_TEXTS  # a canary's quiet minutes
    seen.clock.now = QUIET_S + 1
    seen.publish(moved)

    assert seen.metrics.told[3] == {
        "answers": {"num_texts": 0, "shares": {"good": 0.0}, "confidence": 0.0},
        "validation": {"shares": {"bad": 0.0, "good": 0.0}, "confidence": 0.0},
        "drift": {"labels": 0.0, "confidence": 0.0},
    }


def test_figures_of_a_removed_endpoint_go_at_once() -> None:
    seen = Seen()
    seen.ask(1)
    seen.publish()

    assert seen.publish({})["answers"]["num_texts"] == 0
