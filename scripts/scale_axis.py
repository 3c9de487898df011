"""What something costs by its size: a line through a few measured sizes, where it meets a limit, and its drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from scripts.benchmark import Figure
from tune.figure_style import Draw, Look, png

COLUMNS = 3
ROW_HEIGHT_IN = 2.5


@dataclass(frozen=True)
class Line:
    """`intercept` at size zero, and `slope` more for each one."""

    slope: float
    intercept: float

    def at(self, size: float) -> float:
        """Its value there."""
        return self.intercept + self.slope * size

    def reaches(self, limit: float) -> float:
        """The size at which it comes to `limit`; infinite when it does not rise."""
        return (limit - self.intercept) / self.slope if self.slope > 0 else math.inf


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line of least squares through sizes and their costs. Raises `ValueError` for fewer than two sizes."""
    sizes, costs = zip(*points, strict=True) if points else ((), ())
    if len(set(sizes)) < 2:
        raise ValueError(f"sizes {sorted(set(sizes))} make no line; measure at two or more")
    slope, intercept = np.polyfit(sizes, costs, 1)
    return Line(float(slope), float(intercept))


@dataclass(frozen=True)
class Axis:
    """One thing that grows.

    Either events, whose cost in CPU seconds adds up: the limit is how many of them a second fill one core. Or things
    that are there, which cost something all the time: the limit is how many of them are too many.
    """

    name: str
    size: str
    """What there is more and more of."""
    cost: str
    """What that takes, with its unit."""
    points: tuple[tuple[float, float], ...]
    limit: float | None = None
    """Of the cost of things that are there; None of events."""

    @property
    def line(self) -> Line:
        """Through the points."""
        return fit(self.points)

    @property
    def reached_at(self) -> float:
        """The events a second, or the number of things, at which the limit is reached."""
        if self.limit is None:
            return Line(self.line.slope, 0.0).reaches(1.0)
        return self.line.reaches(self.limit)

    def __str__(self) -> str:
        if self.limit is None:
            return f"{self.line.slope * 1000:.3g} CPU ms each; {self.reached_at:,.3g} a second fill a core"
        return f"{self.line.intercept:.3g} and {self.line.slope:.3g} each; {self.limit:g} at {self.reached_at:,.3g}"

    def figures(self) -> list[Figure]:
        """The slope, and where the limit is."""
        if self.limit is None:
            slope = Figure(f"scale_{self.name}_ms", self.line.slope * 1000, "CPU ms each", more_is_better=False)
            return [slope, Figure(f"scale_{self.name}_per_s", self.reached_at, f"{self.size} a second and core")]
        slope = Figure(f"scale_{self.name}_slope", self.line.slope, f"{self.cost}, each", more_is_better=False)
        return [slope, Figure(f"scale_{self.name}_limit", self.reached_at, f"{self.size} at {self.limit:g}")]


def write_figure(axes: Sequence[Axis], path: Path, title: str) -> None:
    """Writes a PNG to `path`: a panel for each axis."""
    path.write_bytes(png(drawing(axes), title))


def drawing(axes: Sequence[Axis]) -> Draw:
    """The panels: what was measured, and the line through it."""

    def draw(look: Look) -> Drawing:
        rows = math.ceil(len(axes) / COLUMNS)
        figure = look.figure(rows * ROW_HEIGHT_IN + 0.4)
        panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(panel, axis, look)
        for unused in panels[len(axes) :]:
            unused.remove()
        return figure

    return draw


def _draw(panel: Axes, axis: Axis, look: Look) -> None:
    colours = look.theme.states
    largest = max(size for size, _ in axis.points)
    panel.plot([0.0, largest], [axis.line.at(0.0), axis.line.at(largest)], color=colours["complete"])
    panel.plot(*zip(*axis.points, strict=True), ls="", **look.marker("complete"))
    panel.set_xlabel(axis.size)
    panel.set_ylabel(axis.cost)
    panel.set_ylim(bottom=0.0)
    panel.set_title(axis.name.replace("_", " "), loc="left", fontsize="medium")
