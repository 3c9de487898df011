"""A sweep as it runs: a live table on a terminal; in a log file a line for each change and a summary now and then."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table

from common.metrics import direction
from common.recipe import Recipe
from scripts.display import console, duration, leaderboard_table, say, trial_label, value_text

if TYPE_CHECKING:
    from tune.study import TrialRecord

SUMMARY_EVERY_S = 10.0
"""A log gets a summary when a trial ends, but no sooner than this after the last."""

STATES = ("running", "complete", "pruned", "failed")


@dataclass(frozen=True)
class Outlook:
    """What a sweep is to do, as far as its recipe says."""

    num_trials: int
    num_confirming: int
    epochs: int
    """Of a trial that is not stopped early."""
    rungs: tuple[int, ...]
    """Epochs at which ASHA stops the worse two thirds; none without ASHA."""
    metric: str
    time_budget_s: float | None = None

    @classmethod
    def of(cls, recipe: Recipe, rungs: Sequence[int]) -> "Outlook":
        """That of a recipe; `rungs` are its scheduler's."""
        search = recipe.search
        num_confirming = search.confirm.top * search.confirm.seeds if search.confirm else 0
        return cls(
            search.num_trials, num_confirming, recipe.max_epochs, tuple(rungs), search.metric, search.time_budget_s
        )


@dataclass(frozen=True)
class Work:
    """What had been done at a moment; the difference of two gives a rate."""

    num_ended: int
    num_epochs: int

    @classmethod
    def of(cls, records: "Sequence[TrialRecord]") -> "Work":
        """That of all trials."""
        return cls(sum(r.state != "running" for r in records), sum(len(r.history) for r in records))


def summary(outlook: Outlook, records: "Sequence[TrialRecord]", before: Work, elapsed_s: float) -> str:
    """One line: trials by state, best so far, how many reached each rung (an epoch), trials an hour, time left.

    `before` is what had been done when this command began.
    """
    trials = [record for record in records if record.seed is None]
    counts = [(state, sum(record.state == state for record in trials)) for state in STATES]
    states = ", ".join(f"{count} {state}" for state, count in counts if count)
    parts = [f"{states or 'starting'} of {outlook.num_trials} trials", f"best {_best(outlook.metric, trials)}"]
    if outlook.rungs:
        reached = [(rung, sum(len(record.history) >= rung for record in trials)) for rung in outlook.rungs]
        parts.append("rungs " + ", ".join(f"{rung}: {count}" for rung, count in reached))
    if outlook.num_confirming:
        confirmed = sum(record.seed is not None and record.state != "running" for record in records)
        parts.append(f"{confirmed} of {outlook.num_confirming} confirming runs")
    ended = Work.of(records).num_ended - before.num_ended
    if ended and elapsed_s > 0:
        parts.append(f"{3600 * ended / elapsed_s:.0f} trials/h")
    left_s = time_left_s(outlook, records, before, elapsed_s)
    if left_s:
        parts.append(f"about {duration(left_s)} left")
    return f"{elapsed_s:6.0f} s  " + "   ".join(parts)


def time_left_s(outlook: Outlook, records: "Sequence[TrialRecord]", before: Work, elapsed_s: float) -> float | None:
    """Seconds until the sweep ends, at the rate of epochs so far; None until a trial has ended: it shows the length.

    Trials to come are taken to train as many epochs as those that ended did on average, confirming runs all of them, a
    running trial that average or, once beyond it, all. A time budget ends a sweep sooner.
    """
    trials = [record for record in records if record.seed is None]
    ended = [len(record.history) for record in trials if record.state != "running"]
    trained = Work.of(records).num_epochs - before.num_epochs
    if not ended or trained <= 0:
        return None
    mean = sum(ended) / len(ended)
    to_come = max(outlook.num_trials - len(trials), 0) * mean
    confirming = [len(record.history) for record in records if record.seed is not None]
    to_come += max(outlook.num_confirming - len(confirming), 0) * outlook.epochs
    for record in records:
        if record.state == "running":
            done = len(record.history)
            aim = mean if record.seed is None and done < mean else outlook.epochs
            to_come += max(aim - done, 0)
    left_s = to_come * elapsed_s / trained
    return left_s if outlook.time_budget_s is None else max(min(left_s, outlook.time_budget_s - elapsed_s), 0.0)


class SweepView:
    """Shows a sweep's trials whenever it is told of a change."""

    def __init__(self, outlook: Outlook, clock: Callable[[], float] = time.monotonic) -> None:
        self._outlook = outlook
        self._clock = clock
        self._started = clock()
        self._summed_up = self._started
        self._before = Work(0, 0)
        self._trials: dict[str, TrialRecord] = {}
        self._live = (
            Live(console=console, refresh_per_second=2, get_renderable=self._table) if console.is_terminal else None
        )

    def __enter__(self) -> "SweepView":
        context: AbstractContextManager[Any] = self._live or nullcontext()
        context.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()
        elif self._trials:
            say(self._summary())

    def update(self, record: "TrialRecord") -> None:
        """Takes the present state of a trial."""
        known = self._trials.get(record.name)
        self._trials[record.name] = record
        if known is None:  # what it brings along was done before this command
            before, brought = self._before, Work.of([record])
            self._before = Work(before.num_ended + brought.num_ended, before.num_epochs + brought.num_epochs)
        elif (known.state, len(known.history)) == (record.state, len(record.history)):
            return
        if self._live:
            return
        say(self._line(record))
        if record.state != "running" and self._clock() - self._summed_up >= SUMMARY_EVERY_S:
            self._summed_up = self._clock()
            say(self._summary())

    @property
    def _records(self) -> "list[TrialRecord]":
        return list(self._trials.values())  # a live table is drawn by a thread of its own

    def _table(self) -> Table:
        records = self._records
        running = [record for record in records if record.state == "running"]
        rest = [record for record in reversed(records) if record.state != "running"]
        table = leaderboard_table([*running, *rest], self._outlook.metric)
        table.title = self._summary()
        table.title_justify = "left"
        return table

    def _summary(self) -> str:
        return summary(self._outlook, self._records, self._before, self._clock() - self._started)

    def _line(self, record: "TrialRecord") -> str:
        params = " ".join(f"{name}={value_text(value)}" for name, value in record.params.items())
        latest = record.history[-1] if record.history else {}
        shown = " ".join(f"{name} {latest[name]:.4f}" for name in ("accuracy", "macro_f1", "loss") if name in latest)
        epoch = f"epoch {int(latest['epoch'])} {shown}" if latest else ""
        reason = f" ({record.failure})" if record.failure else ""
        label = f"trial {trial_label(record):<3} {record.state:<8}"
        return f"{self._clock() - self._started:6.0f} s  {label}{reason} {params}  {epoch}".rstrip()


def _best(metric: str, trials: "Sequence[TrialRecord]") -> str:
    scored = [(record.metrics[metric], record) for record in trials if record.metrics]
    if not scored:
        return "-"
    sign = -1 if direction(metric) == "min" else 1
    value, record = max(scored, key=lambda entry: sign * entry[0])
    return f"{metric} {value:.4f} (trial {record.number})"
