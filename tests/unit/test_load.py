"""The load of the benchmarks, and what they make of its course."""

import math
import socket
from pathlib import Path

import pytest

import scripts.load
from scripts.load import NO_ANSWER, load
from scripts.load_figure import write_figure
from scripts.varying_load import Course, Look, Request, Stage

COURSE = Course(
    stages=(Stage(1, 4.0), Stage(3, 4.0)),
    requests=(
        Request(0.5, 0.4, 200),
        Request(1.5, 0.2, 200),
        Request(1.9, 0.1, 503),
        Request(5.0, 0.3, 200),
        Request(7.9, 0.5, 200),
    ),
    looks=(Look(0.0, 0), Look(2.0, 1), Look(6.0, 2), Look(8.0, 1), Look(10.0, 0)),
)


def test_a_server_that_gives_no_answer_is_a_result_and_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts.load, "WARM_UP_S", 0.0)
    monkeypatch.setattr(scripts.load, "PAUSE_AFTER_LOSS_S", 0.001)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/"
        found = load(url, [b"{}"], connections=2, seconds=0.05)

    assert set(found.statuses) == {NO_ANSWER}
    assert found.per_s == 0.0
    assert math.isnan(found.quantile_ms(0.5))
    assert "not answered with 200" in str(found)


def test_requests_are_counted_in_spans_and_only_those_that_succeeded() -> None:
    assert COURSE.per_s(2.0) == ([1.0, 3.0, 5.0, 7.0, 9.0], [1.0, 0.0, 0.5, 0.5, 0.0])
    assert COURSE.num_failed() == 1


def test_a_span_without_answers_has_no_latency() -> None:
    middles, latencies = COURSE.latency_ms(2.0, 0.5)

    assert middles == [1.0, 5.0, 7.0]
    assert latencies == pytest.approx([200.0, 300.0, 500.0])


def test_the_way_up_and_down_is_told() -> None:
    assert (COURSE.first_s(1), COURSE.first_s(2), COURSE.first_s(3)) == (2.0, 6.0, None)
    assert COURSE.asleep_after_s() == pytest.approx(2.1)


def test_the_figure_is_a_png(tmp_path: Path) -> None:
    write_figure(COURSE, tmp_path / "load.png", "a course")

    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
