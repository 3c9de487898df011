"""What the figures show, and that nothing of it is cut off, in every look."""

import base64
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from optuna.trial import TrialState
from PIL import Image

from common.recipe import Range
from tests.stored_sweeps import RECIPE, Trained, asha_trials, stored
from tune import figures
from tune.figure_style import DARK, LIGHT, MARKERS, NARROW_IN, Look, Theme, drawn_in, render
from tune.importance import Importances
from tune.mistakes import Answers
from tune.parallel_coordinates import metric_scale, parallel_coordinates, parameter_scale
from tune.stored_sweep import StoredSweep

LOOKS = [Look(theme, width) for theme in (LIGHT, DARK) for width in (Look.width_in, NARROW_IN)]
WIDE = LOOKS[0]

MIXED = [
    Trained((0.5, 0.7, 0.8, 0.75)),
    Trained((0.6,), TrialState.PRUNED, {"learning_rate": 1e-5, "batch_size": 64, "weight_decay": 0.0}),
    Trained((0.4, 0.5, 0.55), TrialState.PRUNED, {"learning_rate": 1e-3, "batch_size": 64, "weight_decay": 0.1}),
    Trained((0.3, 0.9), TrialState.FAIL, failure="diverged"),
    Trained((), TrialState.FAIL, failure="out of memory"),
    Trained((0.6, 0.85), TrialState.RUNNING),
]


@pytest.fixture
def sweep(tmp_path: Path) -> StoredSweep:
    return stored(tmp_path, MIXED)


def answers(labels: tuple[str, ...]) -> Answers:
    """Each label given once to every label."""
    given, predicted = (
        np.array(column) for column in zip(*itertools.product(range(len(labels)), repeat=2), strict=True)
    )
    return Answers(labels, ["text"] * len(given), given, np.eye(len(labels))[predicted])


def draw(function: Callable[..., Figure], *arguments: Any, look: Look = WIDE) -> Figure:
    return drawn_in(look, lambda look: function(*arguments, look))


def lines(axes: Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def markers(axes: Axes) -> dict[tuple[float, float], str]:
    """From where a marker stands to its shape."""
    return {
        (line.get_xdata()[0], line.get_ydata()[0]): str(line.get_marker())
        for line in axes.lines
        if line.get_linestyle() == "None"
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_history_marks_how_each_trial_ended_and_the_best_so_far(sweep: StoredSweep) -> None:
    figure = draw(figures.optimisation_history, sweep)
    (axes,) = figure.axes
    shapes = {
        place: MARKERS[state].shape
        for place, state in {
            (0, 0.8): "complete",
            (1, 0.6): "pruned",
            (2, 0.55): "pruned",
            (3, 0.9): "failed",
            (5, 0.85): "running",
        }.items()
    }
    found = markers(axes)
    assert {place: found[place] for place in shapes} == shapes
    assert found[(4, 0.03)] == MARKERS["failed"].shape  # without a value, on the lower edge
    assert ([0, 1, 2, 5, 5.4], [0.8, 0.8, 0.8, 0.85, 0.85]) in lines(axes)  # what failed cannot win
    assert legend(figure) == ["best so far", "complete", "pruned", "running", "failed"]


def test_learning_curves_have_a_line_at_each_rung_under_how_many_stopped_there(sweep: StoredSweep) -> None:
    (axes,) = draw(figures.learning_curves, sweep).axes
    upright = [x for x, y in lines(axes) if y == [0, 1]]
    assert upright == [[1, 1], [3, 3]]
    (top,) = axes.child_axes
    assert dict(zip(top.get_xticks(), (text.get_text() for text in top.get_xticklabels()), strict=True)) == {
        1: "1",
        3: "1",
    }


def test_a_sweep_that_stops_nothing_has_no_rungs(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"scheduler": "fifo"})})
    figure = draw(figures.learning_curves, stored(tmp_path, MIXED[:1], recipe=recipe))
    (axes,) = figure.axes
    assert not [x for x, y in lines(axes) if y == [0, 1]]
    assert "rung" not in legend(figure)


def test_what_was_pruned_fades_and_the_winner_stands_out(sweep: StoredSweep) -> None:
    (axes,) = draw(figures.learning_curves, sweep).axes
    curves = {tuple(line.get_ydata()): line for line in axes.lines if line.get_marker() == "None"}
    winner, pruned, complete = curves[(0.6, 0.85)], curves[(0.4, 0.5, 0.55)], curves[(0.5, 0.7, 0.8, 0.75)]
    assert winner.get_color() == LIGHT.winner
    assert winner.get_linewidth() > complete.get_linewidth()
    assert (pruned.get_alpha() or 1) < (complete.get_alpha() or 1)


def test_cost_numbers_the_trials_that_nothing_cheaper_matches(tmp_path: Path) -> None:
    trials = [Trained((0.5, 0.7)), Trained((0.6,)), Trained((0.55,)), Trained((0.1, 0.2, 0.65))]
    seconds, epochs = draw(figures.cost, stored(tmp_path, trials)).axes
    assert {text.get_text() for text in seconds.texts} == {"0", "1"}
    assert ([2.1, 4.0], [0.6, 0.7]) in lines(seconds)
    assert ([1, 2], [0.6, 0.7]) in lines(epochs)


def test_numbers_that_would_cover_each_other_are_left_out_and_the_best_stays(tmp_path: Path) -> None:
    trials = [Trained((0.3, 0.4, 0.5)), Trained((0.801,)), Trained((0.8,)), Trained((0.802,))]
    seconds, _ = draw(figures.cost, stored(tmp_path, trials)).axes
    assert {text.get_text() for text in seconds.texts} == {"3"}  # 1 is on the front too, and 0.2 s cheaper


def test_a_loss_counts_downwards(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"metric": "loss"})})
    sweep = stored(tmp_path, [Trained((0.5,)), Trained((0.3,)), Trained((0.4,))], recipe=recipe)
    (axes,) = draw(figures.optimisation_history, sweep).axes
    assert axes.get_ylabel() == "validation loss, less is better"
    assert ([0, 1, 2, 2.4], [0.5, 0.3, 0.3, 0.3]) in lines(axes)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30), st.booleans())
def test_the_front_holds_exactly_what_nothing_dominates(points: list[tuple[int, int]], minimises: bool) -> None:
    costs, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    front = figures.pareto_front(costs, values, minimises=minimises)
    gains = -values if minimises else values

    def dominates(a: int, b: int) -> bool:
        return costs[a] <= costs[b] and gains[a] >= gains[b] and (costs[a] < costs[b] or gains[a] > gains[b])

    undominated = {(c, v) for b, (c, v) in enumerate(points) if not any(dominates(a, b) for a in range(len(points)))}
    assert {points[place] for place in front} == undominated
    assert len(front) == len(undominated)  # equals stand for each other
    assert list(costs[front]) == sorted(costs[front])


@given(st.lists(st.floats(-5, 5), max_size=20), st.booleans())
def test_the_best_so_far_never_gets_worse(values: list[float], minimises: bool) -> None:
    best = figures.best_so_far(values, minimises=minimises)
    assert best == [(min if minimises else max)(values[: place + 1]) for place in range(len(values))]


def test_a_logarithmic_axis_gives_each_decade_the_same_room() -> None:
    scale = parameter_scale(Range(log_uniform=(1e-5, 1e-3)))
    assert [scale.position(value) for value in (1e-5, 1e-4, 1e-3)] == pytest.approx([0, 0.5, 1])
    assert {1e-5, 1e-4, 1e-3} <= {float(f"{tick:g}") for tick in scale.ticks}


def test_choices_are_steps_and_numbers_are_a_line() -> None:
    choices = parameter_scale(Range(choice=(64, 16, 17)))
    assert [(tick, choices.position(tick)) for tick in choices.ticks] == [(16, 0), (17, 0.5), (64, 1)]
    linear = parameter_scale(Range(uniform=(0.0, 0.2)))
    assert linear.position(0.05) == pytest.approx(0.25)
    whole = parameter_scale(Range.model_validate({"int": [1, 4]}))
    assert whole.ticks == (1, 2, 3, 4)


@given(st.floats(1e-7, 1.0), st.floats(1.01, 1e6))
def test_the_ends_of_an_axis_are_written_and_its_numbers_do_not_collide(low: float, factor: float) -> None:
    for space in (Range(log_uniform=(low, low * factor)), Range(uniform=(low, low * factor))):
        scale = parameter_scale(space)
        places = [scale.position(tick) for tick in scale.ticks]
        assert places[0] == pytest.approx(0, abs=1e-9)
        assert places[-1] == pytest.approx(1)
        assert all(after - before > 0.02 for before, after in itertools.pairwise(places))


def test_one_value_has_an_axis_too() -> None:
    assert metric_scale(0.8, 0.8).position(0.8) == pytest.approx(0.5)


def test_parallel_coordinates_lead_through_the_parameters_to_the_value(tmp_path: Path) -> None:
    params = {"learning_rate": 1e-4, "batch_size": 64, "weight_decay": 0.025}
    sweep = stored(tmp_path, [Trained((0.8,), params=params), Trained((0.6,), TrialState.PRUNED, params)])
    (axes,) = draw(parallel_coordinates, sweep).axes
    winner = [line for line in axes.lines if line.get_color() == LIGHT.winner]
    assert [list(line.get_ydata())[:3] for line in winner] == [pytest.approx([0.5, 1.0, 0.25])]
    (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(dashed.get_ydata())[3] < list(winner[0].get_ydata())[3]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*params, "accuracy"]


def test_the_confusion_matrix_writes_counts_and_shares_of_the_given_label() -> None:
    one = Answers(("a", "b"), ["t"] * 3, np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]])
    (axes,) = draw(figures.confusion, one).axes
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "1\n50.0%",
        (1, 0): "1\n50.0%",
        (0, 1): "0\n0.0%",
        (1, 1): "1\n100.0%",
    }


def test_a_matrix_without_room_for_numbers_has_none() -> None:
    (axes,) = draw(figures.confusion, answers(tuple(f"label {n}" for n in range(30)))).axes
    assert len(axes.texts) == 0
    assert len(axes.get_xticklabels()) == 30


def test_a_label_in_any_script_is_text_that_the_browser_draws() -> None:
    svg = render(lambda look: figures.confusion(answers(("利好", "$x^2$")), look), "Title").light
    text = base64.b64decode(svg.partition(",")[2]).decode()
    assert "利好</text>" in text
    assert "$x^2$</text>" in text


def every_figure(folder: Path) -> list[Callable[[Look], Figure]]:
    """With what is long: names, counts, numbers of trials."""
    mixed, large = stored(folder / "mixed", MIXED), stored(folder / "large", asha_trials(60))
    shares = Importances({"learning_rate": 0.9, "weight_decay": 0.1, "batch_size": 0.0}, 0.5, 12, 1)
    names = ("a rather long label that goes on", "neutral", "$x^2$ and 50 %", "<script>", "利好")
    return [
        *(
            lambda look, function=function, sweep=sweep: function(sweep, look)
            for function in (figures.optimisation_history, figures.learning_curves, figures.cost, parallel_coordinates)
            for sweep in (mixed, large)
        ),
        lambda look: figures.importance(shares, look),
        *(lambda look, names=names: figures.confusion(answers(names), look) for names in (names, names[:2], names * 6)),
    ]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_nothing_that_is_written_is_cut_off(tmp_path: Path) -> None:
    looks = (Look(LIGHT, title="Confusion matrix: a-name-sweep-20260101-000000-1"), Look(DARK, NARROW_IN))
    for function, look in itertools.product(every_figure(tmp_path), looks):
        figure = drawn_in(look, function)
        width_in, height_in = figure.get_size_inches()
        drawn = figure.get_tightbbox()  # what is drawn, in inches
        assert -0.01 <= drawn.x0 <= drawn.x1 <= width_in + 0.01, (function, look)
        assert -0.01 <= drawn.y0 <= drawn.y1 <= height_in + 0.01, (function, look)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio, 1 to 21."""

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_their_background(theme: Theme) -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert min(contrast(colour, theme.surface) for colour in (theme.text, theme.faint)) >= 4.5
    assert min(contrast(colour, theme.surface) for colour in (theme.winner, *theme.states.values())) >= 3
    for share in np.linspace(0, 1, 21):  # the numbers in the cells of a confusion matrix
        cell = theme.colormap(float(share))
        assert contrast(theme.text_on(cell), cell) >= 4.5


def test_states_are_told_apart_without_colour() -> None:
    looks = {(marker.shape, marker.is_filled) for marker in MARKERS.values()}
    assert len(looks) == len(MARKERS) == len(LIGHT.states) == len(DARK.states)


def test_a_figure_is_rendered_for_each_background_and_width(sweep: StoredSweep) -> None:
    renderings = render(lambda look: figures.optimisation_history(sweep, look), "Title")
    image = Image.open(io.BytesIO(renderings.png))
    assert image.width > 1200
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    svgs = {renderings.light, renderings.dark, renderings.narrow_light, renderings.narrow_dark}
    assert len(svgs) == 4
    assert all(svg.startswith("data:image/svg+xml;base64,") for svg in svgs)
    assert renderings == render(lambda look: figures.optimisation_history(sweep, look), "Title")
