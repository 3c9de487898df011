"""What people see: everything goes to stderr, so that stdout is free for `--json`."""

import time
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
    confirmed = any(record.confirmation for record in records)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("trial", "state", "epoch", *params, "accuracy", "macro_f1", "loss", "tokens/s"):
        table.add_column(f"[bold]{title}[/bold]" if title == metric else title, justify="right")
    if confirmed:
        table.add_column("mean ± spread (fresh seeds)", justify="right")
    for record in records[:limit]:
        metrics, latest = record.metrics, record.history[-1] if record.history else {}
        table.add_row(
            _number(record),
            record.state,
            str(int(latest["epoch"])) if latest else "-",
            *(_value(record.params[name]) if name in record.params else "-" for name in params),
            *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in ("accuracy", "macro_f1", "loss")),
            f"{latest['tokens_per_s']:,.0f}" if "tokens_per_s" in latest else "-",
            *((_confirmation(record),) if confirmed else ()),
        )
    if len(records) > limit:
        table.caption = f"{len(records) - limit} more in MLflow"
    return table


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _number(record: "TrialRecord") -> str:
    return str(record.number) if record.seed is None else f"{record.number} seed {record.seed}"


def _confirmation(record: "TrialRecord") -> str:
    if record.confirmation is None:
        return "-"
    spread = "" if record.confirmation.spread is None else f" ± {record.confirmation.spread:.4f}"
    return f"{record.confirmation.mean:.4f}{spread} ({len(record.confirmation.values)})"


class SweepView:
    """Trials as they run: a live table on a terminal, a line for each change elsewhere."""

    def __init__(self, num_trials: int, metric: str) -> None:
        self._num_trials = num_trials
        self._metric = metric
        self._started = time.monotonic()
        self._seen: set[tuple[Any, ...]] = set()
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> "SweepView":
        context: AbstractContextManager[Any] = self._live or nullcontext()
        context.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, records: "Sequence[TrialRecord]") -> None:
        """Shows the present state of all trials."""
        if self._live:
            self._live.update(self._table(records))
            return
        for record in records:
            change = (record.name, record.state, len(record.history))
            if change not in self._seen:
                self._seen.add(change)
                say(self._line(record))

    def _table(self, records: "Sequence[TrialRecord]") -> Table:
        running = [record for record in records if record.state == "running"]
        table = leaderboard_table([*running, *(r for r in reversed(records) if r.state != "running")], self._metric)
        table.title = self._summary(records)
        table.title_justify = "left"
        return table

    def _summary(self, records: "Sequence[TrialRecord]") -> str:
        counts = {
            state: sum(r.state == state for r in records) for state in ("running", "complete", "pruned", "failed")
        }
        elapsed = time.monotonic() - self._started
        states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return f"{elapsed:5.0f} s   {states or 'starting'} of {self._num_trials} trials   best {self._best(records)}"

    def _best(self, records: "Sequence[TrialRecord]") -> str:
        values = [record.metrics[self._metric] for record in records if record.metrics]
        if not values:
            return "-"
        return f"{self._metric} {min(values) if self._metric == 'loss' else max(values):.4f}"

    def _line(self, record: "TrialRecord") -> str:
        elapsed = time.monotonic() - self._started
        params = " ".join(f"{name}={_value(value)}" for name, value in record.params.items())
        latest = record.history[-1] if record.history else {}
        shown = " ".join(f"{name} {latest[name]:.4f}" for name in ("accuracy", "macro_f1", "loss") if name in latest)
        epoch = f"epoch {int(latest['epoch'])} {shown}" if latest else ""
        reason = f" ({record.failure})" if record.failure else ""
        return f"{elapsed:6.1f} s  trial {_number(record):<3} {record.state:<8}{reason} {params}  {epoch}".rstrip()
