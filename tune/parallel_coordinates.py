"""Parallel coordinates (Inselberg, 1985): every trial a line over the searched parameters to the value it reached."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import TICKLEFT, TICKRIGHT
from matplotlib.patheffects import withStroke
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from common.search_range import Range, Value
from tune.figure_style import Look, hide_spines
from tune.figures import winner_name
from tune.stored_sweep import StoredSweep

MIN_TICK_GAP = 0.07
"""What is closer to an end of an axis, as a share of it, leaves no room for both numbers."""


@dataclass(frozen=True)
class Scale:
    """One axis: where a value stands on it, from 0 to 1, and which values are written beside it."""

    position: Callable[[Any], float]
    ticks: tuple[Value, ...]


def parallel_coordinates(sweep: StoredSweep, look: Look) -> Figure:
    """The figure; the winner is drawn over the others, what ASHA stopped is dashed."""
    figure = look.figure(3.9 if look.is_narrow else 4.2)
    axes = figure.subplots()
    hide_spines(axes)
    trials = [trial for trial in sweep.valued() if trial.params.keys() >= sweep.compared.keys()]
    values = [trial.metrics[sweep.metric] for trial in trials]
    scales = {name: parameter_scale(space) for name, space in sweep.compared.items()}
    result = metric_scale(min(values), max(values))
    colours = look.theme.colormap
    for value, trial in sorted(zip(values, trials, strict=True), key=lambda p: p[0], reverse=sweep.minimises):
        height = result.position(value)
        goodness = 1 - height if sweep.minimises else height
        is_winner = trial is sweep.winner
        axes.plot(
            [*(scale.position(trial.params[name]) for name, scale in scales.items()), height],
            color=look.theme.winner if is_winner else colours(0.3 + 0.7 * goodness),
            linewidth=2.8 if is_winner else 1.5,
            linestyle="--" if trial.state == "pruned" else "-",
        )
    for place, scale in enumerate(scales.values()):
        _draw_axis(axes, place, scale, look, side=-1)
    _draw_axis(axes, len(scales), result, look, side=1)  # where no line runs
    _name_axes(axes, [*scales, sweep.metric], look)
    look.legend(
        figure,
        Line2D([], [], color=look.theme.winner, linewidth=2.8, label=winner_name(sweep)),
        Line2D([], [], color=colours(0.9), linewidth=1.5, label="other trials"),
        Line2D([], [], color=colours(0.6), linewidth=1.5, linestyle="--", label="pruned"),
    )
    return figure


def parameter_scale(space: Range) -> Scale:
    """The axis of a searched parameter: logarithmic, linear, or one step for each choice."""
    if space.choice:
        choices = sorted(set(space.choice), key=lambda value: (isinstance(value, str), value))
        return Scale(lambda value: choices.index(value) / (len(choices) - 1), tuple(choices))
    assert space.interval is not None, "a single fixed value is not searched"
    low, high = space.interval
    if space.is_logarithmic:
        width = math.log(high / low)
        scale = Scale(lambda value: math.log(value / low) / width, _ticks(LogLocator(subs=(1, 2, 5)), low, high))
    else:
        scale = _linear_scale(low, high, MaxNLocator(nbins=5, integer=space.integer is not None))
    between = [tick for tick in scale.ticks if MIN_TICK_GAP < scale.position(tick) < 1 - MIN_TICK_GAP]
    return replace(scale, ticks=(low, *between, high))


def metric_scale(low: float, high: float) -> Scale:
    """The axis of the metric, a little beyond its lowest and highest value; a single value stands in the middle."""
    margin = 0.02 * (high - low) or 0.01
    return _linear_scale(low - margin, high + margin, MaxNLocator(nbins=5))


def _linear_scale(low: float, high: float, locator: Locator) -> Scale:
    return Scale(lambda value: (value - low) / (high - low), _ticks(locator, low, high))


def _ticks(locator: Locator, low: float, high: float) -> tuple[float, ...]:
    return tuple(float(tick) for tick in locator.tick_values(low, high) if low <= tick <= high)


def _draw_axis(axes: Axes, place: int, scale: Scale, look: Look, side: int) -> None:
    """The axis, with its values left (-1) or right (1) of it."""
    axes.plot([place, place], [0, 1], color=look.theme.faint, linewidth=1.0, zorder=1)
    for tick in scale.ticks:
        height = scale.position(tick)
        axes.annotate(
            tick if isinstance(tick, str) else f"{tick:g}",
            (place, height),
            xytext=(side * 6, 0),
            textcoords="offset points",
            ha="right" if side < 0 else "left",
            va="center",
            fontsize="small",
            path_effects=[withStroke(linewidth=3, foreground=look.theme.surface)],
            zorder=4,
        )
        axes.plot(place, height, marker=TICKLEFT if side < 0 else TICKRIGHT, color=look.theme.faint, markersize=4)


def _name_axes(axes: Axes, names: list[str], look: Look) -> None:
    margin = 0.45 if look.is_narrow else 0.25
    axes.set_xlim(-margin, len(names) - 1 + margin)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), [name.replace("_", "_\n") if look.is_narrow else name for name in names])
    axes.tick_params(axis="x", length=0)
