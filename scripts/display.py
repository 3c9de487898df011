"""What people see: everything goes to stderr, so that stdout is free for `--json`."""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from common.data_checks import Finding
    from tune.study import TrialRecord

console = Console(stderr=True, highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 160  # a log file has no edge at which a table would have to be cut

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def say(text: str) -> None:
    """Prints a line."""
    console.print(text, markup=False)


def step(title: str) -> None:
    """Announces a step."""
    console.print(f"\n[bold]{title}[/bold]")


def show_findings(findings: "Sequence[Finding]") -> None:
    """Prints what the data examination found, the most severe first."""
    for finding in findings:
        colour = _COLOURS[finding.severity]
        console.print(f"  [{colour}]{finding.severity:<7}[/{colour}] {finding.check}: ", end="")
        say(finding.message)
        for example in finding.examples:
            say(f"            e.g. {example}")
        say(f"            -> {finding.advice}")


def leaderboard_table(records: "Sequence[TrialRecord]", metric: str, *, limit: int = 20) -> Table:
    """The trials as a table, in the order given."""
    params = list(dict.fromkeys(name for record in records for name in record.params))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("trial", "state", "epoch", *params, "accuracy", "macro_f1", "loss", "tokens/s"):
        table.add_column(f"[bold]{title}[/bold]" if title == metric else title, justify="right")
    for record in records[:limit]:
        metrics, latest = record.metrics, record.history[-1] if record.history else {}
        table.add_row(
            str(record.number),
            record.state,
            str(int(latest["epoch"])) if latest else "-",
            *(f"{record.params[name]:.3g}" if name in record.params else "-" for name in params),
            *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in ("accuracy", "macro_f1", "loss")),
            f"{latest['tokens_per_s']:,.0f}" if "tokens_per_s" in latest else "-",
        )
    if len(records) > limit:
        table.caption = f"{len(records) - limit} more in MLflow"
    return table


class SweepView:
    """Trials as they run: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self, num_trials: int, metric: str) -> None:
        self._num_trials = num_trials
        self._metric = metric
        self._started = time.monotonic()
        self._records: dict[int, TrialRecord] = {}
        self._live = Live(console=console, get_renderable=self._table) if console.is_terminal else None

    def __enter__(self) -> "SweepView":
        context: AbstractContextManager[Any] = self._live or nullcontext()
        context.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, record: "TrialRecord") -> None:
        """Shows the present state of a trial: at once as a line, with the table's next refresh on a terminal."""
        before = self._records.get(record.number)
        self._records[record.number] = record
        has_changed = before is None or _change(before) != _change(record)
        if has_changed and not self._live:
            say(self._line(record))

    def _table(self) -> Table:
        records = list(self._records.values())  # Live draws from a thread of its own
        running = [record for record in records if record.state == "running"]
        table = leaderboard_table([*running, *(r for r in reversed(records) if r.state != "running")], self._metric)
        table.title = self._summary(records)
        table.title_justify = "left"
        return table

    def _summary(self, records: "Sequence[TrialRecord]") -> str:
        counts = Counter(record.state for record in records)
        elapsed = time.monotonic() - self._started
        states = ", ".join(f"{counts[s]} {s}" for s in ("running", "complete", "pruned", "failed") if counts[s])
        return f"{elapsed:5.0f} s   {states or 'starting'} of {self._num_trials} trials   best {self._best(records)}"

    def _best(self, records: "Sequence[TrialRecord]") -> str:
        values = [record.metrics[self._metric] for record in records if record.metrics]
        if not values:
            return "-"
        return f"{self._metric} {min(values) if self._metric == 'loss' else max(values):.4f}"

    def _line(self, record: "TrialRecord") -> str:
        elapsed = time.monotonic() - self._started
        params = " ".join(f"{name}={value:.3g}" for name, value in record.params.items())
        latest = record.history[-1] if record.history else {}
        shown = " ".join(f"{name} {latest[name]:.4f}" for name in ("accuracy", "macro_f1", "loss") if name in latest)
        epoch = f"epoch {int(latest['epoch'])} {shown}" if latest else ""
        reason = f" ({record.failure})" if record.failure else ""
        return f"{elapsed:6.1f} s  trial {record.number:<3} {record.state:<8}{reason} {params}  {epoch}".rstrip()


def _change(record: "TrialRecord") -> tuple[str, int]:
    """Two records that agree in this are shown as one line."""
    return record.state, len(record.history)
