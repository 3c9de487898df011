"""The parts of a sweep that need no cluster."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from common.recipe_file import load_recipe, shipped_recipes
from tune.scheduler import make_scheduler, replay, rungs
from tune.study import TrialRecord, leaderboard

QUICKSTART = str(shipped_recipes()["quickstart"])


def record(number: int, *accuracies: float, state: str = "complete", checkpoint: bool = True) -> TrialRecord:
    history = tuple({"epoch": n, "accuracy": a} for n, a in enumerate(accuracies, start=1))
    best = max(history, key=lambda epoch: epoch["accuracy"]) if history and checkpoint else {}
    return TrialRecord(number, state, {}, metrics=best, history=history)


class NewTrial:
    trial_id = "new"


def decision(scheduler: TrialScheduler, epoch: int, accuracy: float) -> str:
    trial = NewTrial()
    scheduler.on_trial_add(None, trial)
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "accuracy": accuracy})


def test_asha_stops_a_trial_that_is_worse_than_the_best_third() -> None:
    scheduler = make_scheduler(load_recipe(shipped_recipes()["quickstart"]), epochs=4)
    replay(scheduler, [record(n, accuracy) for n, accuracy in enumerate((0.5, 0.6, 0.9))], "accuracy")
    assert decision(scheduler, epoch=1, accuracy=0.7) == TrialScheduler.STOP
    assert decision(scheduler, epoch=1, accuracy=0.95) == TrialScheduler.CONTINUE


def test_rungs_are_empty_without_what_earlier_drivers_saw() -> None:
    scheduler = make_scheduler(load_recipe(shipped_recipes()["quickstart"]), epochs=4)
    replay(scheduler, [record(0, 0.9, state="running")], "accuracy")
    assert decision(scheduler, epoch=1, accuracy=0.1) == TrialScheduler.CONTINUE


@pytest.mark.parametrize(("override", "epochs"), [("search.scheduler=fifo", 4), ("search.scheduler=asha", 1)])
def test_nothing_is_stopped_early_where_nothing_can_be_gained(override: str, epochs: int) -> None:
    assert type(make_scheduler(load_recipe(shipped_recipes()["quickstart"], [override]), epochs)) is FIFOScheduler


def test_the_leaderboard_ranks_what_can_be_promoted() -> None:
    trials = [
        record(0, 0.5, 0.7),
        record(1, 0.9, state="failed"),
        record(2, 0.8, state="pruned"),
        record(3, 0.95, checkpoint=False),
        record(4),
    ]
    assert [trial.number for trial in leaderboard(trials, "accuracy")] == [2, 0, 1, 3, 4]


def test_a_loss_is_ranked_upwards() -> None:
    trials = [TrialRecord(n, "complete", {}, metrics={"loss": loss}) for n, loss in enumerate((0.3, 0.1, 0.2))]
    assert [trial.number for trial in leaderboard(trials, "loss")] == [1, 2, 0]


@given(st.integers(1, 400))
def test_rungs_are_where_ray_stops_trials(epochs: int) -> None:
    recipe = load_recipe(QUICKSTART, [f"train.epochs={epochs}", "search.scheduler=asha"])
    scheduler = make_scheduler(recipe, epochs)
    brackets = getattr(scheduler, "_brackets", [])  # none when there is nothing to stop early
    decided = {rung for bracket in brackets for rung, _ in bracket._rungs if rung < epochs}
    assert rungs(recipe) == tuple(sorted(decided))


def test_there_are_no_rungs_where_nothing_is_stopped_early() -> None:
    assert rungs(load_recipe(QUICKSTART, ["search.scheduler=fifo"])) == ()
    assert rungs(load_recipe(QUICKSTART, ["train.epochs=1"])) == ()


def test_searched_epochs_set_the_highest_rung() -> None:
    recipe = load_recipe(QUICKSTART, ["search.space.epochs.choice=[2, 10]"])
    assert recipe.max_epochs == 10
    assert rungs(recipe) == (1, 3, 9)
