"""`Trainer.hyperparameter_search` of Transformers: what our sweep is held against."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import ray
import ray.tune
import transformers

from scripts.contest import Contest, tutorial_trainer
from tune.quiet import quiet


def timed_search(
    both: Contest, grid: Mapping[str, Sequence[int | float]], trials: int, backend: str
) -> tuple[float, float]:
    """Seconds of a search, and the best accuracy that it tells.

    In a process of its own, whose imports do not count: Ray cannot send a `Trainer` from one that has trained before.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed_search, both, grid, trials, backend).result()


def _timed_search(
    both: Contest, grid: Mapping[str, Sequence[int | float]], trials: int, backend: str
) -> tuple[float, float]:
    started = time.perf_counter()
    best = _search(both, grid, trials, backend)
    return time.perf_counter() - started, best


def _search(both: Contest, grid: Mapping[str, Sequence[int | float]], trials: int, backend: str) -> float:
    """Runs `Trainer.hyperparameter_search` and returns the best accuracy it tells."""
    values: dict[str, Sequence[int | float]] = {
        "learning_rate": grid["learning_rate"],
        "per_device_train_batch_size": [int(value) for value in grid["batch_size"]],
        "weight_decay": grid["weight_decay"],
    }

    def suggest(trial: Any) -> dict[str, Any]:
        if backend == "optuna":
            return {name: trial.suggest_categorical(name, choices) for name, choices in values.items()}
        return {name: ray.tune.choice(choices) for name, choices in values.items()}

    options: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, quiet("optuna"):
        if backend == "ray":
            ray.init("local", log_to_driver=False, include_dashboard=False)
            options = {"resources_per_trial": {"cpu": 1}, "verbose": 0, "storage_path": folder}
        try:
            found = tutorial_trainer(both, folder, both.recipe.train.seed).hyperparameter_search(
                hp_space=suggest,
                compute_objective=lambda metrics: metrics["eval_accuracy"],
                n_trials=trials,
                direction="maximize",
                backend=backend,
                **options,
            )
        finally:
            if backend == "ray":
                ray.shutdown()
    assert isinstance(found, transformers.trainer_utils.BestRun), "one objective gives one best run"
    return float(found.objective)  # type: ignore[arg-type]
