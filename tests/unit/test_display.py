"""What people see of a sweep and of their data."""

import io
import os
import re
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console

from common.cluster import PROJECT_ROOT
from common.data_checks import Finding
from scripts import display
from scripts.display import leaderboard, leaderboard_table, show_findings, step
from tune.study import TrialRecord


def replace_console(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> io.StringIO:
    """Makes everything go where the test reads it."""
    out = io.StringIO()
    colours: Any = {"color_system": "standard", "no_color": False} if is_terminal else {}
    console = Console(file=out, force_terminal=is_terminal, width=160, highlight=False, soft_wrap=True, **colours)
    monkeypatch.setattr(display, "console", console)
    return out


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    return replace_console(monkeypatch, is_terminal=False)


def record(number: int, *accuracies: float, state: str = "running", failure: str | None = None) -> TrialRecord:
    history = tuple({"epoch": n, "accuracy": a, "loss": 1 - a} for n, a in enumerate(accuracies, start=1))
    metrics = max(history, key=lambda epoch: epoch["accuracy"], default={})
    return TrialRecord(number, state, {"learning_rate": 1e-3}, metrics, history, failure=failure)


def test_a_notebook_or_a_log_is_no_terminal_whatever_colours_are_forced() -> None:
    code = "from scripts.display import console; print(console.is_terminal, console.is_jupyter)"
    environment = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]


def test_the_leaderboards_rows_are_flat_and_in_its_order() -> None:
    trials = [asdict(record(2, 0.5, 0.75, state="complete")), asdict(record(0))]

    complete, started = leaderboard({"trials": trials})

    assert complete == {
        "trial": 2,
        "state": "complete",
        "epochs": 2,
        "learning_rate": 1e-3,
        "accuracy": 0.75,
        "macro_f1": None,
        "loss": 0.25,
    }
    assert (started["trial"], started["epochs"], started["accuracy"]) == (0, 0, None)


def test_the_leaderboard_keeps_its_order_and_says_how_many_it_leaves_out(shown: io.StringIO) -> None:
    trials = [record(number, 0.5, state="complete") for number in (2, 0, 3, 1)]

    display.console.print(leaderboard_table(trials, "accuracy", limit=3))

    assert re.findall(r"^ +(\d) ", shown.getvalue(), re.MULTILINE) == ["2", "0", "3"]
    assert "1 more in MLflow" in shown.getvalue()
    assert leaderboard_table(trials, "accuracy", limit=4).caption is None


def test_the_leaderboard_has_a_column_for_every_searched_setting(shown: io.StringIO) -> None:
    trials = [TrialRecord(0, "failed", {"epochs": 2}), TrialRecord(1, "failed", {"warmup_ratio": 0.1})]

    display.console.print(leaderboard_table(trials, "accuracy"))

    header, first, second = shown.getvalue().splitlines()
    assert header.split()[3:5] == ["epochs", "warmup_ratio"]
    assert first.split()[3:5] == ["2", "-"]
    assert second.split()[3:5] == ["-", "0.1"]


def test_the_leaderboards_metric_stands_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def rendered(metric: str) -> str:
        shown = replace_console(monkeypatch, is_terminal=True)
        display.console.print(leaderboard_table([record(0, 0.5)], metric))
        return shown.getvalue().replace("\x1b[0m\x1b[1m", "")  # bold that ends and begins again

    assert rendered("accuracy") != rendered("loss")


def test_a_finding_is_shown_with_severity_examples_and_advice(shown: io.StringIO) -> None:
    show_findings([Finding("leakage", "error", 2, "2 rows leak", ("'[red] wine'", "'b'"), "remove them")])

    assert shown.getvalue().splitlines() == [
        "  error   leakage: 2 rows leak",
        "            e.g. '[red] wine'",
        "            e.g. 'b'",
        "            -> remove them",
    ]


def test_a_path_with_brackets_is_announced_as_it_is(shown: io.StringIO) -> None:
    step("Data: news[old].csv")

    assert "news[old].csv" in shown.getvalue()
