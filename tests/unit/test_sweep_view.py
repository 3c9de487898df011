"""What people see of a sweep, on a terminal and in a log file."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from common.recipe_file import load_recipe, shipped_recipes
from scripts import display, sweep_view
from scripts.sweep_view import SUMMARY_EVERY_S, Outlook, SweepView, Work, summary, time_left_s
from tune.scheduler import rungs
from tune.study import TrialRecord

OUTLOOK = Outlook(num_trials=6, num_confirming=0, epochs=4, rungs=(1, 3), metric="accuracy")
NOTHING = Work(0, 0)


def trial(number: int, state: str, *accuracies: float, seed: int | None = None) -> TrialRecord:
    history = tuple({"epoch": place, "accuracy": value} for place, value in enumerate(accuracies, start=1))
    best = max(history, key=lambda epoch: epoch["accuracy"]) if history else {}
    return TrialRecord(number, state, {"learning_rate": 1e-4, "precision": "bf16"}, best, history, seed=seed)


def test_the_summary_counts_states_rungs_rate_and_time_left() -> None:
    records = [
        trial(0, "complete", 0.5, 0.6, 0.7, 0.9),
        trial(1, "pruned", 0.4),
        trial(2, "running", 0.6, 0.7, 0.75),
        trial(3, "failed"),
    ]
    line = summary(OUTLOOK, records, NOTHING, elapsed_s=360.0)
    assert "1 running, 1 complete, 1 pruned, 1 failed of 6 trials" in line
    assert "best accuracy 0.9000 (trial 0)" in line
    assert "rungs 1: 3, 3: 2" in line
    assert "30 trials/h" in line
    assert "about" in line
    assert line.rstrip().endswith("left")


def test_a_sweep_without_early_stopping_has_no_rungs_and_one_that_begins_no_rate() -> None:
    recipe = load_recipe(shipped_recipes()["quickstart"], ["search.scheduler=fifo"])
    line = summary(Outlook.of(recipe, rungs(recipe)), [], NOTHING, elapsed_s=1.0)
    assert line.strip() == "1 s  starting of 6 trials   best -"


def test_a_loss_is_best_when_it_is_lowest() -> None:
    records = [TrialRecord(n, "running", {}, metrics={"loss": loss}) for n, loss in enumerate((0.3, 0.1, 0.2))]
    outlook = Outlook(num_trials=3, num_confirming=0, epochs=1, rungs=(), metric="loss")
    assert "best loss 0.1000 (trial 1)" in summary(outlook, records, NOTHING, 1.0)


def test_time_left_follows_from_the_epochs_of_trials_that_ended() -> None:
    records = [trial(0, "pruned", 0.1), trial(1, "complete", 0.1, 0.2, 0.3)]  # two epochs on average
    # four trials to come of two epochs each, at one epoch in ten seconds
    assert time_left_s(OUTLOOK, records, NOTHING, elapsed_s=40.0) == pytest.approx(80.0)
    assert time_left_s(OUTLOOK, [trial(0, "running", 0.1)], NOTHING, elapsed_s=40.0) is None


def test_a_sweep_that_is_over_has_no_time_left_to_state() -> None:
    records = [trial(n, "complete", 0.1, 0.2, 0.3, 0.4) for n in range(6)]
    assert "left" not in summary(OUTLOOK, records, NOTHING, elapsed_s=40.0)


def test_what_an_earlier_command_did_does_not_count_as_speed() -> None:
    earlier = [trial(0, "complete", 0.1, 0.1, 0.1, 0.1), trial(1, "complete", 0.1, 0.1, 0.1, 0.1)]
    before = Work.of(earlier)
    assert time_left_s(OUTLOOK, earlier, before, elapsed_s=40.0) is None
    records = [*earlier, trial(2, "complete", 0.1, 0.1, 0.1, 0.1)]
    assert time_left_s(OUTLOOK, records, before, elapsed_s=40.0) == pytest.approx(3 * 40)
    assert "90 trials/h" in summary(OUTLOOK, records, before, elapsed_s=40.0)


def test_confirming_runs_are_shown_apart_and_are_part_of_the_time_left() -> None:
    outlook = Outlook(num_trials=1, num_confirming=2, epochs=4, rungs=(1, 3), metric="accuracy")
    records = [trial(0, "pruned", 0.5), trial(0, "complete", 0.4, 0.5, 0.6, 0.99, seed=1)]
    line = summary(outlook, records, NOTHING, elapsed_s=50.0)
    assert "1 pruned of 1 trials" in line
    assert "1 of 2 confirming runs" in line
    assert "best accuracy 0.5000 (trial 0)" in line
    assert time_left_s(outlook, records, NOTHING, elapsed_s=50.0) == pytest.approx(4 * 10)


@given(
    lengths=st.lists(st.integers(0, 4), max_size=6),
    running=st.lists(st.integers(0, 4), max_size=2),
    elapsed_s=st.floats(1, 1e5),
    budget_s=st.none() | st.floats(1, 1e5),
)
def test_time_left_is_never_negative_nor_beyond_the_budget(
    lengths: list[int], running: list[int], elapsed_s: float, budget_s: float | None
) -> None:
    records = [trial(n, "complete", *[0.5] * length) for n, length in enumerate(lengths)]
    records += [trial(10 + n, "running", *[0.5] * length) for n, length in enumerate(running)]
    outlook = Outlook(6, 2, 4, (1, 3), "accuracy", time_budget_s=budget_s)
    left_s = time_left_s(outlook, records, NOTHING, elapsed_s)
    if left_s is not None:
        assert left_s >= 0
        assert budget_s is None or left_s <= max(budget_s - elapsed_s, 0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    file = io.StringIO()
    console = Console(file=file, width=160, highlight=False, soft_wrap=True)
    for module in (display, sweep_view):
        monkeypatch.setattr(module, "console", console)
    return file


def test_a_log_file_gets_each_change_once_and_a_summary_when_a_trial_ends_without_colours(log: io.StringIO) -> None:
    now = [0.0]
    with SweepView(OUTLOOK, clock=lambda: now[0]) as view:
        view.update(trial(0, "running"))
        view.update(trial(0, "running"))
        view.update(trial(0, "running", 0.5))
        now[0] = SUMMARY_EVERY_S + 1
        view.update(trial(0, "complete", 0.5, 0.6))
        view.update(trial(1, "running"))
        view.update(trial(0, "complete", 0.5, 0.6))
        view.update(trial(1, "complete", 0.5))
        lines = log.getvalue().splitlines()
        assert len([line for line in lines if "trial 0 " in line and "running" in line]) == 2
        assert len([line for line in lines if "of 6 trials" in line]) == 1  # the second would come too soon
        assert "learning_rate=0.0001 precision=bf16" in lines[0]
    assert "2 complete of 6 trials" in log.getvalue().splitlines()[-1]
    assert "\x1b" not in log.getvalue()


def test_a_run_that_confirms_is_told_from_its_trial(log: io.StringIO) -> None:
    with SweepView(OUTLOOK) as view:
        view.update(trial(3, "complete", 0.5))
        view.update(trial(3, "running", seed=7))
    assert "trial 3 seed 7 running" in log.getvalue()


def test_on_a_terminal_the_summary_heads_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True)
    for module in (display, sweep_view):
        monkeypatch.setattr(module, "console", console)
    with SweepView(OUTLOOK) as view:
        view.update(trial(0, "running", 0.5))
    assert "1 running of 6 trials" in file.getvalue()
