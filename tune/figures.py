"""The report's figures of a sweep, drawn from its trials."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tune.figure_style import MARKERS, Look, hide_spines
from tune.importance import Importances
from tune.mistakes import Answers
from tune.scheduler import rungs
from tune.stored_sweep import StoredSweep
from tune.study import TrialRecord

MAX_LABELS_WITH_COUNTS = 12
"""A larger confusion matrix has no room for numbers in its cells."""

MAX_LABEL_LETTERS = 22
"""Longer labels are cut in the confusion matrix."""


def optimisation_history(sweep: StoredSweep, look: Look) -> Figure:
    """Each trial's value by its number, and the best so far."""
    figure = look.figure(3.2 if look.is_narrow else 3.6)
    axes = figure.subplots()
    for trial in sweep.valued(failed=True):
        axes.plot(trial.number, trial.metrics[sweep.metric], linestyle="", **look.marker(trial.state))
    lost = [trial for trial in sweep.trials if trial.state == "failed" and sweep.value(trial) is None]
    for trial in lost:
        axes.plot(trial.number, 0.03, linestyle="", transform=axes.get_xaxis_transform(), **look.marker(trial.state))
    trials = sweep.valued()
    best = best_so_far([trial.metrics[sweep.metric] for trial in trials], minimises=sweep.minimises)
    numbers = [trial.number for trial in trials]
    if trials:
        end = sweep.trials[-1].number + 0.4
        axes.step([*numbers, end], [*best, best[-1]], where="post", color=look.theme.winner, linewidth=1.6, zorder=1)
    axes.set_xlim(-0.5, sweep.trials[-1].number + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel(_metric_label(sweep))
    line = Line2D([], [], color=look.theme.winner, linewidth=1.6, label="best so far")
    look.legend(figure, line, *_state_handles([*sweep.valued(failed=True), *lost], look))
    return figure


def learning_curves(sweep: StoredSweep, look: Look) -> Figure:
    """The metric at every epoch, with ASHA's rungs; what was stopped stands back."""
    figure = look.figure(3.6 if look.is_narrow else 4.2)
    axes = figure.subplots()
    winner = sweep.winner
    for trial in sweep.trials:
        if trial is not winner:
            faded = 0.55 if trial.state == "pruned" else 0.9
            _curve(axes, sweep, trial, look, color=look.theme.states[trial.state], linewidth=1.2, alpha=faded)
    if winner is not None:
        _curve(axes, sweep, winner, look, color=look.theme.winner, linewidth=2.6, zorder=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel(_metric_label(sweep))
    longest = max(int(epoch["epoch"]) for trial in sweep.trials for epoch in trial.history)
    axes.set_xlim(0.9, longest + 0.1 * max(longest / 4, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = _state_handles([trial for trial in sweep.trials if trial.history], look, line=1.2)
    if winner is not None:
        handles.insert(0, Line2D([], [], color=look.theme.winner, linewidth=2.6, label=winner_name(sweep)))
    if _mark_rungs(axes, sweep, longest, look):
        handles.append(Line2D([], [], color=look.theme.faint, linewidth=1.1, linestyle=(0, (4, 3)), label="rung"))
    look.legend(figure, *handles)
    return figure


def importance(importances: Importances, look: Look) -> Figure:
    """Each parameter's share of the differences between trials."""
    names, shares = list(importances.shares), list(importances.shares.values())
    figure = look.figure(0.9 + 0.42 * len(names))
    axes = figure.subplots()
    bars = axes.barh(names, shares, color=look.theme.states["complete"], height=0.6)
    axes.bar_label(bars, labels=[f"{share:.0%}" for share in shares], padding=4)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(shares) * 1.12)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel(f"share of the differences after epoch {importances.epoch}")
    return figure


def cost(sweep: StoredSweep, look: Look) -> Figure:
    """Each trial's value against what it cost, with those that nothing cheaper matches."""
    figure = look.figure(5.6 if look.is_narrow else 3.8)
    panels = figure.subplots(2, 1, sharey=True) if look.is_narrow else figure.subplots(1, 2, sharey=True)
    trials = sweep.valued()
    values = np.array([trial.metrics[sweep.metric] for trial in trials])
    for axes, key, label in zip(panels, ("seconds", "epoch"), ("training time, s", "epochs"), strict=True):
        costs = np.array([trial.history[-1][key] for trial in trials])
        front = pareto_front(costs, values, minimises=sweep.minimises)
        axes.step(costs[front], values[front], where="post", color=look.theme.winner, linewidth=1.6, zorder=1)
        for trial, spent, value in zip(trials, costs, values, strict=True):
            axes.plot(spent, value, linestyle="", **look.marker(trial.state))
        _number(axes, [(trials[place].number, costs[place], values[place]) for place in reversed(front)], costs, values)
        axes.margins(x=0.07, y=0.1)
        axes.set_xlim(left=-0.06 * costs.max())  # room for a number left of the cheapest
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel(label)
    for axes in panels[: 2 if look.is_narrow else 1]:
        axes.set_ylabel(_metric_label(sweep))
    front_handle = Line2D([], [], color=look.theme.winner, linewidth=1.6, label="Pareto front, with trial numbers")
    look.legend(figure, front_handle, *_state_handles(trials, look))
    return figure


def confusion(answers: Answers, look: Look) -> Figure:
    """The confusion matrix: counts, coloured by their share of the given label's rows."""
    matrix, labels = answers.matrix, answers.labels
    num_labels, has_counts = len(labels), len(labels) <= MAX_LABELS_WITH_COUNTS
    cell_in = min(1.0, 2.9 / num_labels) if look.is_narrow else min(0.8, max(7.0 / num_labels, 0.14))
    figure = look.figure(cell_in * num_labels + 0.9)
    axes = figure.subplots()
    hide_spines(axes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=look.theme.colormap, vmin=0, vmax=1, aspect="equal" if look.is_narrow else "auto")
    if has_counts:
        edges = np.arange(num_labels - 1) + 0.5
        axes.hlines(edges, -0.5, num_labels - 0.5, color=look.theme.surface, linewidth=1.5)
        axes.vlines(edges, -0.5, num_labels - 0.5, color=look.theme.surface, linewidth=1.5)
        _cell_texts(axes, matrix, shares, look)
    names = [_shortened(label, 12 if look.is_narrow else MAX_LABEL_LETTERS) for label in labels]
    points = min(9.5, 50 * cell_in)
    longest_in = max(map(len, names)) * 0.6 * points / 72
    is_tilted = longest_in > 0.9 * (cell_in if look.is_narrow else (look.width_in - 1.8) / num_labels)
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if is_tilted else {}
    axes.set_xticks(range(num_labels), names, fontsize=points, **turned)
    axes.set_yticks(range(num_labels), names, fontsize=points)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("given in the data")
    return figure


def best_so_far(values: Sequence[float], *, minimises: bool) -> list[float]:
    """The best of the values up to each."""
    better = np.minimum if minimises else np.maximum
    running: list[float] = better.accumulate(np.asarray(values, dtype=np.float64)).tolist() if values else []
    return running


def pareto_front(costs: npt.NDArray[np.float64], values: npt.NDArray[np.float64], *, minimises: bool) -> list[int]:
    """Places of what is better than all that costs as much or less, cheapest first; costs and values are (N,)."""
    gains = -values if minimises else values
    front: list[int] = []
    for place in np.lexsort((-gains, costs)):
        if not front or gains[place] > gains[front[-1]]:
            front.append(int(place))
    return front


def winner_name(sweep: StoredSweep) -> str:
    """How a legend calls the winner."""
    number = sweep.winner.number if sweep.winner else "-"
    return f"trial {number}, the {'winner' if sweep.is_finished else 'best so far'}"


def _metric_label(sweep: StoredSweep) -> str:
    return f"validation {sweep.metric}" + (", less is better" if sweep.minimises else "")


def _state_handles(trials: Iterable[TrialRecord], look: Look, *, line: float | None = None) -> list[Line2D]:
    """A legend entry for each state of the trials; `line` is the width of the line that leads to the marker."""
    present = {trial.state for trial in trials}
    width = {"linewidth": line} if line else {"linestyle": ""}
    return [
        Line2D([], [], color=look.theme.states[state], label=state, **width, **look.marker(state))
        for state in MARKERS
        if state in present
    ]


def _curve(axes: Axes, sweep: StoredSweep, trial: TrialRecord, look: Look, **line: Any) -> None:
    """A trial's line, with the marker of its state at the end."""
    epochs = [epoch["epoch"] for epoch in trial.history]
    values = [epoch[sweep.metric] for epoch in trial.history]
    axes.plot(epochs, values, **line)
    marker = look.marker(trial.state)
    if trial is sweep.winner:
        marker |= {"markeredgecolor": look.theme.winner, "markerfacecolor": look.theme.winner}
    axes.plot(epochs[-1:], values[-1:], linestyle="", alpha=line.get("alpha"), zorder=line.get("zorder"), **marker)


def _mark_rungs(axes: Axes, sweep: StoredSweep, longest: int, look: Look) -> bool:
    """A line for each rung that a trial has come to, under the number of trials stopped there; whether there is one."""
    reached = [rung for rung in rungs(sweep.recipe) if rung <= longest]
    if not reached:
        return False
    ends = Counter(int(trial.history[-1]["epoch"]) for trial in sweep.trials if trial.state == "pruned")
    for rung in reached:
        axes.axvline(rung, color=look.theme.faint, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
    top = axes.secondary_xaxis("top")
    top.set_xticks(reached, [str(ends[rung]) for rung in reached])
    top.spines["top"].set_visible(False)
    top.tick_params(length=0)
    top.set_xlabel("trials stopped at the rung", loc="left", fontsize="small", color=look.theme.faint)
    return True


def _number(
    axes: Axes,
    points: Iterable[tuple[int, float, float]],
    costs: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
) -> None:
    """Writes each trial's number beside its point (number, cost, value); of points too close together, the first's."""
    room = np.array([0.05 * costs.max(), 0.05 * np.ptp(values)])
    numbered: list[npt.NDArray[np.float64]] = []
    for number, spent, value in points:
        point = np.array([spent, value])
        if any((np.abs(point - other) < room).all() for other in numbered):
            continue
        numbered.append(point)
        axes.annotate(
            str(number),
            (spent, value),
            xytext=(-4, 3),  # above and left of it, where the front's line never runs
            textcoords="offset points",
            ha="right",
            fontsize="small",
        )


def _cell_texts(axes: Axes, matrix: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], look: Look) -> None:
    size = "medium" if len(matrix) <= 5 and not look.is_narrow else "small"
    for (row, column), count in np.ndenumerate(matrix):
        share = float(shares[row, column])
        colour = look.theme.text_on(look.theme.colormap(share))
        axes.text(column, row, f"{count:,}\n{share:.1%}", ha="center", va="center", color=colour, fontsize=size)


def _shortened(label: str, letters: int) -> str:
    return label if len(label) <= letters else f"{label[: letters - 1]}…"
