"""Fresh seeds before one is crowned: the mean decides, nothing is repeated, and TPE does not learn from it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from tune.confirm import ConfirmationSearch, crowned, fresh_seeds, representative
from tune.study import CHECKPOINTS, StudySearch, TrialRecord, journal
from tune.sweep import search_budget_s

SEEDS = (1, 2)


def recipe(*overrides: str) -> Recipe:
    return load_recipe(shipped_recipes()["quickstart"], overrides)


def trial(number: int, accuracy: float, seed: int | None = None, state: str = "complete") -> TrialRecord:
    params = {"learning_rate": 1e-3 + number / 1e4, "batch_size": 16, "weight_decay": 0.0}
    return TrialRecord(number, state, params, metrics={"accuracy": accuracy}, seed=seed)


def runs(values: dict[int, tuple[float, ...]]) -> list[TrialRecord]:
    return [trial(number, value, seed) for number, own in values.items() for seed, value in zip(SEEDS, own)]  # noqa: B905


def test_the_best_mean_over_fresh_seeds_wins_not_the_luckiest_trial() -> None:
    board = [trial(0, 0.99), trial(1, 0.95), trial(2, 0.5)]
    found = crowned(board, runs({0: (0.80, 0.90), 1: (0.93, 0.95)}), SEEDS, "accuracy")
    assert [entry.number for entry in found] == [1, 0, 2]
    confirmation = found[0].confirmation
    assert confirmation is not None
    assert (confirmation.mean, confirmation.spread) == (pytest.approx(0.94), pytest.approx(0.02 / 2**0.5))
    assert found[2].confirmation is None


def test_a_loss_is_confirmed_downwards() -> None:
    board = [TrialRecord(number, "complete", {}, metrics={"loss": 0.1}) for number in (0, 1)]
    again = [
        TrialRecord(number, "complete", {}, metrics={"loss": loss}, seed=1) for number, loss in ((0, 0.4), (1, 0.3))
    ]
    assert [entry.number for entry in crowned(board, again, (1,), "loss")] == [1, 0]


def test_a_configuration_that_fails_with_another_seed_is_not_crowned() -> None:
    board = [trial(0, 0.99), trial(1, 0.95)]
    again = [trial(0, 0.98, 1), trial(0, 0.98, 2, "failed"), *runs({1: (0.90, 0.90)})]
    assert [entry.number for entry in crowned(board, again, SEEDS, "accuracy")] == [1, 0]


def test_without_any_confirmed_configuration_the_leaderboard_stands() -> None:
    board = [trial(0, 0.99), trial(1, 0.95)]
    found = crowned(board, [trial(1, 0.97, 1)], SEEDS, "accuracy")
    assert found == board
    assert representative(found[0], [], SEEDS, "accuracy") == board[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_what_is_promoted_is_the_run_nearest_to_the_mean_never_a_luckier_one(values: list[float]) -> None:
    seeds = tuple(range(1, len(values) + 1))
    again = [trial(0, value, seed) for seed, value in zip(seeds, values, strict=True)]
    (winner,) = crowned([trial(0, 0.5)], again, seeds, "accuracy")
    chosen = representative(winner, again, seeds, "accuracy").metrics["accuracy"]
    mean = sum(values) / len(values)
    assert all(abs(chosen - mean) <= abs(value - mean) + 1e-9 for value in values)


def test_of_two_seeds_the_earlier_is_promoted_whichever_was_luckier() -> None:
    for values in ((0.90, 0.92), (0.92, 0.90)):
        again = runs({0: values})
        (winner,) = crowned([trial(0, 0.99)], again, SEEDS, "accuracy")
        assert representative(winner, again, SEEDS, "accuracy").seed == 1


def test_all_leaders_get_the_same_seeds_and_none_the_recipes_own() -> None:
    asked = recipe("train.seed=4294967295", "search.confirm={top: 2, seeds: 2}")
    assert asked.search.confirm is not None
    assert fresh_seeds(asked, asked.search.confirm) == (0, 1)


def open_confirmation(folder: Path, leaders: list[TrialRecord]) -> ConfirmationSearch:
    return ConfirmationSearch(
        recipe(), name="sweep", storage=journal(folder / "study.journal"), leaders=leaders, seeds=SEEDS
    )


def finish(study: ConfirmationSearch, tune_id: str, accuracy: float) -> None:
    for epoch in range(1, 5):
        result = {"epoch": epoch, "accuracy": accuracy}
        study.on_trial_result(tune_id, result)
    study.on_trial_complete(tune_id, result)


def test_each_leader_is_trained_with_each_seed_and_its_own_parameters(tmp_path: Path) -> None:
    leaders = [trial(7, 0.9), trial(3, 0.8)]
    study = open_confirmation(tmp_path, leaders)
    assert study.num_missing == 4
    suggested = [study.suggest(str(place)) for place in range(4)]
    assert [suggestion and suggestion["name"] for suggestion in suggested] == [
        "trial-7-seed-1",
        "trial-3-seed-1",
        "trial-7-seed-2",
        "trial-3-seed-2",
    ]
    assert suggested[0] is not None
    assert suggested[0]["params"] == {**leaders[0].params, "seed": 1}


def test_a_resumed_confirmation_continues_what_was_cut_off_and_repeats_nothing(tmp_path: Path) -> None:
    leaders = [trial(7, 0.9), trial(3, 0.8)]
    before = open_confirmation(tmp_path, leaders)
    before.suggest("a")
    before.suggest("b")
    finish(before, "a", 0.9)
    before.trial("b").set_user_attr(CHECKPOINTS, {"latest": {"epoch": 1, "path": "/checkpoint"}})

    after = open_confirmation(tmp_path, leaders)
    assert after.num_missing == 3
    suggested = [after.suggest(str(place)) for place in range(3)]
    assert [(entry and entry["name"], entry and entry["resume_from"]) for entry in suggested] == [
        ("trial-3-seed-1", ["/checkpoint"]),
        ("trial-7-seed-2", []),
        ("trial-3-seed-2", []),
    ]


def test_confirming_runs_are_neither_counted_as_trials_nor_learned_from(tmp_path: Path) -> None:
    study = open_confirmation(tmp_path, [trial(7, 0.9)])
    study.suggest("a")
    finish(study, "a", 0.9)
    search = StudySearch(recipe().search, name="sweep", storage=journal(tmp_path / "study.journal"), epochs=4)
    assert search.records() == []
    assert search.num_missing == recipe().search.num_trials


def test_a_time_budget_leaves_the_confirming_runs_their_share() -> None:
    whole = recipe("search.time_budget_s=120").search
    assert search_budget_s(whole) == 120
    shared = recipe("search.time_budget_s=120", "search.confirm={top: 3, seeds: 2}").search
    assert search_budget_s(shared) == 60  # 6 trials, then 6 confirming runs
