"""Which of the searched parameters decided how good a trial got."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from sklearn.ensemble import RandomForestRegressor

from common.search_range import Range, Value
from tune.stored_sweep import Missing, StoredSweep

MIN_TRIALS = 10
"""With fewer, shares are mostly noise."""

MIN_EXPLAINED = 0.1
"""An R² that parameters without any influence seldom reach; `tests/unit/test_importance.py` holds how seldom."""

NUM_TREES = 100


@dataclass(frozen=True)
class Importances:
    """Shares of the variance between trials."""

    shares: Mapping[str, float]
    """Of each searched parameter, the largest first; they add up to 1."""
    explained: float
    """R² on trials that the forest's trees had left out; 1 is perfect, 0 is no better than the mean."""
    num_trials: int
    """How many trials the shares come from."""
    epoch: int
    """The epoch after which the trials were compared."""


def parameter_importance(sweep: StoredSweep) -> Importances | Missing:
    """fANOVA (Hutter et al., 2014, http://proceedings.mlr.press/v32/hutter14.html) of all trials after the same epoch.

    Optuna's own importances look at COMPLETE trials alone. After ASHA these are the few that survived, all of them
    good, and what is left between them is noise; and a trial that was stopped cannot be compared with one that was
    not. So trials are compared after the last epoch that all of them have come to, which under ASHA is the first rung.
    A parameter that is searched on a logarithmic scale is compared on it.

    `Missing` when there are too few trials, or when a random forest cannot predict trials that it has not seen: then
    there is nothing to divide into shares.
    """
    space = sweep.compared
    ended = [trial for trial in sweep.trials if trial.state in ("complete", "pruned") and trial.history]
    trials = [trial for trial in ended if trial.params.keys() >= space.keys()]
    if len(space) < 2:
        return Missing("fewer than two parameters were searched, so there is nothing to compare")
    if len(trials) < MIN_TRIALS:
        return Missing(f"too few trials: {len(trials)} have ended, and below {MIN_TRIALS} the shares would be noise")
    num_epochs = min(len(trial.history) for trial in trials)
    values = np.array([trial.history[num_epochs - 1][sweep.metric] for trial in trials])
    if np.ptp(values) == 0:
        return Missing(f"all trials had the same {sweep.metric} after epoch {num_epochs}")
    scaled = [{name: _scaled(space[name], trial.params[name]) for name in space} for trial in trials]
    numbers = [[_number(space[name], value) for name, value in params.items()] for params in scaled]
    explained = _out_of_bag_r2(np.array(numbers), values)
    if explained < MIN_EXPLAINED:
        return Missing(
            f"the parameters do not explain why the trials differ after epoch {num_epochs}: a forest predicts trials "
            f"that it has not seen with R² {explained:.2f}, where 1 is perfect and 0 a guess"
        )
    return Importances(_fanova(space, scaled, values), explained, len(trials), num_epochs)


def _fanova(
    space: Mapping[str, Range], scaled: Sequence[Mapping[str, Value]], values: npt.NDArray[np.float64]
) -> dict[str, float]:
    """Shares by parameter; Optuna computes them from a study, so one is made of these trials, in memory."""
    scales = {name: _scale(values) for name, values in space.items()}
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # that there is a study is nobody's business
    study = optuna.create_study(storage=None)
    study.add_trials(
        [
            optuna.trial.create_trial(params=dict(params), distributions=scales, value=float(value))
            for params, value in zip(scaled, values, strict=True)
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=NUM_TREES, seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _scaled(values: Range, value: Value) -> Value:
    """A parameter's value on the scale that it is searched on."""
    if not (values.is_logarithmic and values.interval) or isinstance(value, str):
        return value
    low, high = values.interval
    return min(max(math.log(value), math.log(low)), math.log(high))


def _number(values: Range, value: Value) -> float:
    """A parameter's value for a forest: of a choice of texts, its place."""
    return value if not isinstance(value, str) else float(values.bounds().index(value))


def _scale(values: Range) -> BaseDistribution:
    """fANOVA takes every interval to be uniform, so a logarithmic one is given as that of the logarithms."""
    if values.interval is None:
        return CategoricalDistribution(values.bounds())
    low, high = values.interval
    if values.is_logarithmic:
        return FloatDistribution(math.log(low), math.log(high))
    return FloatDistribution(low, high) if values.is_continuous else IntDistribution(int(low), int(high))


def _out_of_bag_r2(params: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    """How well a forest on the parameters, (N, P), predicts the values, (N,), of trials its trees have not seen."""
    forest = RandomForestRegressor(n_estimators=NUM_TREES, oob_score=True, random_state=0)
    return float(forest.fit(params, values).oob_score_)
