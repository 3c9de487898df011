"""What the benchmarks share: figures beside their baselines, as a table for people and as JSON for programs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.table import Table

from scripts.cli import guarded, stdout_kept_free
from scripts.display import console


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it is held against, both measured in the same run."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    more_is_better: bool = True

    @property
    def ratio(self) -> float | None:
        """How many times better than the baseline: above 1 is in favour, whichever way the figure points."""
        if not self.baseline or not self.value:
            return None
        return self.value / self.baseline if self.more_is_better else self.baseline / self.value


def run(measure: Callable[[], Sequence[Figure]], *, as_json: bool) -> None:
    """Measures and prints a table on stderr and, with `as_json`, one object on stdout; errors end it as a command."""

    def show() -> dict[str, Any]:
        figures = measure()
        console.print()
        console.print(_table(figures))
        return {"results": {figure.name: _document(figure) for figure in figures}}

    with stdout_kept_free():
        results = guarded(show, resume_with=None)
    if as_json:
        click.echo(json.dumps(results))


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("figure", "value", "unit", "baseline", "ratio"):
        table.add_column(title, justify="left" if title in ("figure", "unit") else "right")
    for figure in figures:
        cells = (figure.value, figure.baseline, figure.ratio)
        value, baseline, ratio = ("-" if cell is None else f"{cell:,.4g}" for cell in cells)
        table.add_row(figure.name, value, figure.unit, baseline, ratio)
    return table


def _document(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "unit": figure.unit, "baseline": figure.baseline, "ratio": figure.ratio}
