"""The line through what was measured at a few sizes, where it meets a limit, and its drawing."""

import math
from pathlib import Path

import pytest

from scripts.benchmark import Figure
from scripts.scale_axis import Axis, Line, drawing, fit, write_figure
from tune.figure_style import LIGHT, Look, drawn_in

EVENTS = Axis("results", "results", "CPU s of the driver", ((100.0, 1.2), (200.0, 1.4), (400.0, 1.8)))
THINGS = Axis("endpoints", "endpoints", "cores", ((0.0, 0.05), (100.0, 0.1), (200.0, 0.15)), limit=1.0)


def test_the_line_has_the_least_squares() -> None:
    """Worked by hand: means 2 and 3; slope (1*1.5 + 0 + 1*1.5) / 2."""
    line = fit([(1.0, 1.5), (2.0, 3.0), (3.0, 4.5)])
    assert (line.slope, line.intercept) == (pytest.approx(1.5), pytest.approx(0.0))
    between = fit([(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)])
    assert (between.slope, between.intercept) == (pytest.approx(0.0), pytest.approx(1.0))


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (1.0, 3.0)]])
def test_one_size_makes_no_line(points: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match="make no line; measure at two or more"):
        fit(points)


def test_of_events_what_they_cost_to_begin_with_does_not_bound_how_many_fill_a_core() -> None:
    """2 ms each beside 1 s for the start: 500 a second."""
    assert EVENTS.reached_at == pytest.approx(500.0)
    assert EVENTS.figures() == [
        Figure("scale_results_ms", pytest.approx(2.0), "CPU ms each", more_is_better=False),
        Figure("scale_results_per_s", pytest.approx(500.0), "results a second and core"),
    ]


def test_of_things_that_are_there_it_does() -> None:
    """0.05 cores without any and 0.0005 for each: a whole core at 1,900."""
    assert THINGS.reached_at == pytest.approx(1900.0)
    assert THINGS.figures() == [
        Figure("scale_endpoints_slope", pytest.approx(0.0005), "cores, each", more_is_better=False),
        Figure("scale_endpoints_limit", pytest.approx(1900.0), "endpoints at 1"),
    ]


def test_what_does_not_grow_reaches_no_limit() -> None:
    assert math.isinf(Line(slope=0.0, intercept=0.1).reaches(1.0))
    assert math.isinf(Line(slope=-0.001, intercept=0.1).reaches(1.0))


@pytest.mark.parametrize("num_axes", [1, 3, 5])
def test_each_axis_has_a_panel_with_what_was_measured_and_the_line_through_it(num_axes: int) -> None:
    figure = drawn_in(Look(LIGHT), drawing([EVENTS] * num_axes))

    assert len(figure.axes) == num_axes
    for panel in figure.axes:
        line, points = panel.get_lines()
        assert list(line.get_ydata()) == pytest.approx([1.0, 1.8])
        assert list(points.get_xdata()) == [100.0, 200.0, 400.0]
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("results", "CPU s of the driver")


def test_the_figure_is_a_png(tmp_path: Path) -> None:
    write_figure([EVENTS, THINGS], tmp_path / "scaling.png", "What grows")

    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
