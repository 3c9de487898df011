"""What people see: everything goes to stderr, so that stdout is free for `--json`."""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from common.data_checks import Finding
    from tune.study import TrialRecord

# A terminal alone can redraw a table. A notebook cannot, though its kernel sets FORCE_COLOR, by which rich takes it for
# a terminal; and rich's own way there wants ipywidgets.
console = Console(stderr=True, highlight=False, soft_wrap=True, force_jupyter=False, force_terminal=sys.stderr.isatty())
if not console.is_terminal:
    console.width = 160  # a log file has no edge at which a table would have to be cut

METRICS = ("accuracy", "macro_f1", "loss")
"""Of the validation split, as a leaderboard has them."""

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def say(text: str) -> None:
    """Prints a line."""
    console.print(text, markup=False)


def step(title: str) -> None:
    """Announces a step."""
    console.print(f"\n{title}", style="bold", markup=False)


def epoch_line(metrics: Mapping[str, float]) -> str:
    """What a training's epoch has come to."""
    return (
        f"epoch {int(metrics['epoch'])}  train loss {metrics['train_loss']:.4f}  loss {metrics['loss']:.4f}  accuracy "
        f"{metrics['accuracy']:.4f}  macro-F1 {metrics['macro_f1']:.4f}  {metrics['tokens_per_s']:,.0f} tokens/s"
    )


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
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for title in ("trial", "state", "epoch", *params, *METRICS, "tokens/s"):
        table.add_column(title, justify="right", header_style="bold" if title == metric else "")
    if confirmed:
        table.add_column("mean ± spread (fresh seeds)", justify="right")
    for record in records[:limit]:
        metrics, latest = record.metrics, record.history[-1] if record.history else {}
        table.add_row(
            trial_label(record),
            record.state,
            str(int(latest["epoch"])) if latest else "-",
            *(value_text(record.params[name]) if name in record.params else "-" for name in params),
            *(f"{metrics[name]:.4f}" if name in metrics else "-" for name in METRICS),
            f"{latest['tokens_per_s']:,.0f}" if "tokens_per_s" in latest else "-",
            *((_confirmation(record),) if confirmed else ()),
        )
    if len(records) > limit:
        table.caption = f"{len(records) - limit} more in MLflow"
    return table


def leaderboard(swept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A sweep's result as one flat row for each trial, the best first: `pandas.DataFrame(leaderboard(swept))`."""
    return [
        {
            "trial": trial["number"],
            "state": trial["state"],
            "epochs": len(trial["history"]),
            **trial["params"],
            **{name: trial["metrics"].get(name) for name in METRICS},
        }
        for trial in swept["trials"]
    ]


def value_text(value: float | str) -> str:
    """A setting's value, numbers with three digits."""
    return value if isinstance(value, str) else f"{value:.3g}"


def trial_label(record: "TrialRecord") -> str:
    """Its number, and its seed when it confirms."""
    return str(record.number) if record.seed is None else f"{record.number} seed {record.seed}"


def _confirmation(record: "TrialRecord") -> str:
    if record.confirmation is None:
        return "-"
    spread = "" if record.confirmation.spread is None else f" ± {record.confirmation.spread:.4f}"
    return f"{record.confirmation.mean:.4f}{spread} ({len(record.confirmation.values)})"


def duration(seconds: float) -> str:
    """A time for people: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
