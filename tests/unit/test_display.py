"""What people see of a sweep: a line for each change, or a table that keeps up."""

import io

import pytest
from rich.console import Console

from scripts import display
from scripts.display import SweepView
from tune.study import TrialRecord

EPOCH = {"epoch": 1, "accuracy": 0.75, "macro_f1": 0.7, "loss": 0.5}
RUNNING = TrialRecord(0, "running", {"learning_rate": 1e-3})
REPORTED = TrialRecord(0, "running", {"learning_rate": 1e-3}, metrics=EPOCH, history=(EPOCH,))
COMPLETE = TrialRecord(0, "complete", {"learning_rate": 1e-3}, metrics=EPOCH, history=(EPOCH,))


def console(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=shown, force_terminal=terminal, width=160))
    return shown


def test_a_log_has_a_line_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = console(monkeypatch, terminal=False)
    with SweepView(num_trials=2, metric="accuracy") as view:
        for record in (RUNNING, RUNNING, REPORTED, REPORTED, COMPLETE):
            view.update(record)
    states = [line.split("trial 0")[1].split()[0] for line in shown.getvalue().splitlines()]
    assert states == ["running", "running", "complete"]


def test_a_terminal_shows_a_table_of_all_trials_with_their_last_state(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = console(monkeypatch, terminal=True)
    with SweepView(num_trials=2, metric="accuracy") as view:
        for record in (RUNNING, REPORTED, COMPLETE, TrialRecord(1, "failed", {"learning_rate": 1e-3})):
            view.update(record)
    assert "1 complete, 1 failed of 2 trials   best accuracy 0.7500" in shown.getvalue()
