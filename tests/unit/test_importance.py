"""Parameter importance after ASHA: what matters is found, and what cannot be known is not drawn."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from common.recipe import Range
from tests.stored_sweeps import RECIPE, Trained, asha_trials, stored
from tune.importance import MIN_TRIALS, Importances, parameter_importance
from tune.stored_sweep import Missing


@pytest.mark.parametrize("seed", range(3))
def test_the_parameter_that_decides_is_found_though_many_trials_were_pruned(seed: int, tmp_path: Path) -> None:
    sweep = stored(tmp_path, asha_trials(14, seed))
    assert sum(trial.state == "pruned" for trial in sweep.trials) >= 6
    found = parameter_importance(sweep)
    assert isinstance(found, Importances)
    assert next(iter(found.shares)) == "learning_rate"
    assert found.shares["learning_rate"] > 0.7
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.num_trials == 14
    assert found.explained > 0.4


def test_noise_is_not_divided_into_shares(tmp_path: Path) -> None:
    sweeps = [stored(tmp_path / str(seed), asha_trials(14, seed, influence=0.0)) for seed in range(8)]
    refused = [found for found in map(parameter_importance, sweeps) if isinstance(found, Missing)]
    assert len(refused) >= 7
    assert all("do not explain why the trials differ after epoch 1" in found.reason for found in refused)


def test_trials_are_compared_after_the_last_epoch_that_all_of_them_have_come_to(tmp_path: Path) -> None:
    in_full = [
        Trained((0.5, 0.5, trial.values[0], 0.9 * (number % 2)), params=trial.params)
        for number, trial in enumerate(asha_trials())
    ]
    stopped = Trained((0.5, 0.5, in_full[0].values[2]), TrialState.PRUNED, in_full[0].params)
    found = parameter_importance(stored(tmp_path, [*in_full, stopped]))
    assert isinstance(found, Importances)
    assert (found.epoch, found.num_trials) == (3, 15)
    assert next(iter(found.shares)) == "learning_rate"


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.RUNNING])
def test_too_few_trials_are_said_and_a_failed_one_does_not_count(state: TrialState, tmp_path: Path) -> None:
    trials = asha_trials(MIN_TRIALS - 1)
    found = parameter_importance(stored(tmp_path, [*trials, Trained((), state)]))
    assert found == Missing("too few trials: 9 have ended, and below 10 the shares would be noise")


def test_equal_values_leave_nothing_to_explain(tmp_path: Path) -> None:
    trials = [Trained((0.5,), params=trial.params) for trial in asha_trials(12)]
    assert parameter_importance(stored(tmp_path, trials)) == Missing("all trials had the same accuracy after epoch 1")


def test_one_parameter_has_nothing_to_be_compared_with(tmp_path: Path) -> None:
    space = {"learning_rate": Range(log_uniform=(1e-5, 1e-3)), "batch_size": Range(fixed=16)}
    recipe = RECIPE.model_copy(update={"search": RECIPE.search.model_copy(update={"space": space})})
    params = {"learning_rate": 1e-4, "batch_size": 16}
    found = parameter_importance(stored(tmp_path, [Trained((0.5,), params=params)], recipe=recipe))
    assert found == Missing("fewer than two parameters were searched, so there is nothing to compare")


def test_a_logarithmic_parameter_is_weighed_on_its_logarithm(tmp_path: Path) -> None:
    """Half of the decades decide, which are a tenth of the range: on a linear scale they would hardly count."""
    trials = [
        Trained((0.9 if learning_rate < 1e-4 else 0.5 + 0.3 * (number % 2),), params=params)
        for number in range(20)
        for learning_rate in [10 ** (-5 + 2 * number / 19)]
        for params in [{"learning_rate": learning_rate, "batch_size": (16, 64)[number % 2], "weight_decay": 0.05}]
    ]
    found = parameter_importance(stored(tmp_path, trials))
    assert isinstance(found, Importances)
    assert next(iter(found.shares)) == "learning_rate"


def test_asking_twice_gives_the_same_answer_and_says_nothing(tmp_path: Path) -> None:
    sweep = stored(tmp_path, asha_trials())
    optuna.logging.set_verbosity(optuna.logging.INFO)
    assert parameter_importance(sweep) == parameter_importance(sweep)
    assert optuna.logging.get_verbosity() == optuna.logging.WARNING
