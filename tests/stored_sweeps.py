"""Sweeps on disk as an ended or a running driver leaves them, made without Ray and without training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from common.recipe import Recipe
from common.recipe_file import dump_recipe
from tune.figure_style import LIGHT, Draw, Look, Renderings
from tune.search_space import draw
from tune.stored_sweep import StoredSweep, load_sweep
from tune.study import CHECKPOINTS, EPOCH, FAILURE, StudySearch, journal, trial_name

SWEEP_ID = "tiny-sweep-20260101-000000-1"

RECIPE = Recipe.model_validate(
    {
        "name": "tiny",
        "data": {"source": "texts.csv"},
        "model": {"base": "org/encoder"},
        "train": {"epochs": 4, "precision": "fp32"},
        "search": {
            "num_trials": 12,
            "space": {
                "learning_rate": {"log_uniform": [1e-5, 1e-3]},
                "batch_size": {"choice": [16, 64]},
                "weight_decay": {"uniform": [0.0, 0.1]},
            },
        },
    }
)


@dataclass(frozen=True)
class Trained:
    """A trial: its metric after every epoch, and how it ended."""

    values: tuple[float, ...]
    state: TrialState = TrialState.COMPLETE
    params: dict[str, float] | None = None
    failure: str | None = None
    checkpoint: str | None = "/gone/checkpoint"


def write_sweep(
    storage: Path, trials: Sequence[Trained], *, recipe: Recipe = RECIPE, prepared_uri: str = "/gone/data"
) -> Path:
    """The study's file, below `<storage>/runs/<SWEEP_ID>/`."""
    path = storage / "runs" / SWEEP_ID / "study.journal"
    search = StudySearch(recipe.search, name=SWEEP_ID, storage=journal(path), epochs=recipe.train.epochs)
    search.describe(dump_recipe(recipe), prepared_uri)
    for number, trial in enumerate(trials):
        search.study.add_trial(_frozen(recipe, number, trial))
        search.record_run(trial_name(number, seed=None), f"run-{number}")
    return path


def stored(
    storage: Path, trials: Sequence[Trained], *, recipe: Recipe = RECIPE, prepared_uri: str = "/gone/data"
) -> StoredSweep:
    """The same, written and read."""
    write_sweep(storage, trials, recipe=recipe, prepared_uri=prepared_uri)
    return load_sweep(str(storage / "runs"), SWEEP_ID)


def asha_trials(num_trials: int = 14, seed: int = 0, *, influence: float = 0.3) -> list[Trained]:
    """Trials whose learning rate decides (as far as `influence` says), most of them stopped at a rung."""
    random = np.random.default_rng(seed)
    trials: list[Trained] = []
    for _ in range(num_trials):
        params = {
            "learning_rate": float(10 ** random.uniform(-5, -3)),
            "batch_size": int(random.choice([16, 64])),
            "weight_decay": float(random.uniform(0.0, 0.1)),
        }
        top = 0.9 - influence * (np.log10(params["learning_rate"]) + 4) ** 2
        values = [float(top - 0.1 / epoch + random.normal(0, 0.004)) for epoch in (1, 2, 3, 4)]
        first = [trial.values[0] for trial in trials]
        is_stopped = bool(first) and values[0] < np.percentile(first, 100 * 2 / 3)
        state = TrialState.PRUNED if is_stopped else TrialState.COMPLETE
        trials.append(Trained(tuple(values[:1] if is_stopped else values), state, params))
    return trials


def with_checkpoint(trials: Sequence[Trained], checkpoint: Path) -> list[Trained]:
    """The same trials, all of which left the same checkpoint."""
    return [replace(trial, checkpoint=str(checkpoint)) for trial in trials]


def sketch(draw: Draw, title: str) -> Renderings:
    """In place of `tune.figure_style.render` where a test looks at the page: draws, and renders nothing."""
    draw(Look(LIGHT, title=title))
    return Renderings(b"", *["data:image/svg+xml,"] * 4)


def _frozen(recipe: Recipe, number: int, trial: Trained) -> optuna.trial.FrozenTrial:
    metric = recipe.search.metric
    attributes: dict[str, Any] = {
        f"{EPOCH}{epoch}": {
            "epoch": epoch,
            "accuracy": value,
            "macro_f1": value - 0.01,
            "loss": 1 - value,
            metric: value,
            "tokens_per_s": 1000.0,
            "seconds": 2.0 * epoch + number / 10,
        }
        for epoch, value in enumerate(trial.values, start=1)
    }
    if trial.values and trial.checkpoint:
        best = (min if metric == "loss" else max)(trial.values)
        attributes[CHECKPOINTS] = {"best": {"epoch": trial.values.index(best) + 1, "path": trial.checkpoint}}
    if trial.failure:
        attributes[FAILURE] = trial.failure
    params = trial.params or {"learning_rate": 1e-4, "batch_size": 16, "weight_decay": 0.05}
    drawn: Any = optuna.trial.FixedTrial(dict(params))
    draw(drawn, recipe.search)
    return optuna.trial.create_trial(
        state=trial.state,
        value=max(trial.values) if trial.state == TrialState.COMPLETE else None,
        params=dict(params),
        distributions=drawn.distributions,
        user_attrs=attributes,
        intermediate_values=dict(enumerate(trial.values, start=1)),
    )
