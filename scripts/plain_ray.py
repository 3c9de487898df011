"""The same work with Ray alone, written as its guides show: what the benchmarks compare with.

https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html and
https://docs.ray.io/en/latest/tune/examples/optuna_example.html, tune-mlflow.html.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.search.optuna import OptunaSearch

from common.recipe import Train
from common.tokenised import PreparedData
from tune.train_loop import train
from tune.trainer import loop_config

LEARNING_RATES = (1e-4, 1e-3)


class Ends(ray.tune.Callback):
    """Calls a function whenever a trial has ended."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Passes it on."""
        self._on_end()


def train_in_trials(
    prepared: PreparedData, settings: Train, *, num_trials: int, folder: str, on_end: Callable[[], None]
) -> list[float]:
    """A Tune trial that calls `TorchTrainer`, one at a time; returns the seconds that each one trained."""
    num_workers = settings.num_workers.max

    def train_fn_per_worker(config: dict[str, Any]) -> None:
        def report(metrics: dict[str, float], checkpoint: Path | None) -> None:
            stored = ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None
            ray.train.report(metrics, checkpoint=stored)

        chosen = settings.model_copy(update={"learning_rate": config["learning_rate"]})
        train(loop_config(prepared, chosen, num_threads=1), report)

    def train_driver_fn(config: dict[str, Any]) -> None:
        trainer = ray.train.torch.TorchTrainer(
            train_fn_per_worker,
            train_loop_config=config["train_loop_config"],
            scaling_config=ray.train.ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(
                name=f"train-trial_id={ray.tune.get_context().get_trial_id()}",
                storage_path=folder,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # as the guide does
            ),
        )
        trainer.fit()

    tuner = ray.tune.Tuner(
        # The guide gives the driver a CPU, which two cores do not have beside two workers.
        ray.tune.with_resources(train_driver_fn, ray.tune.PlacementGroupFactory([{"memory": 1}])),
        param_space={"train_loop_config": {"learning_rate": ray.tune.loguniform(*LEARNING_RATES)}},
        tune_config=ray.tune.TuneConfig(num_samples=num_trials, max_concurrent_trials=1),
        run_config=ray.tune.RunConfig(name="plain", storage_path=folder, verbose=0, callbacks=[Ends(on_end)]),
    )
    results = tuner.fit()
    metrics = [results[number].metrics for number in range(len(results))]
    return [float(found["seconds"]) for found in metrics if found]


def report_in_trials(
    trainable: Callable[[dict[str, Any]], None],
    search: OptunaSearch,
    *,
    num_trials: int,
    max_concurrent: int,
    folder: str,
    on_end: Callable[[], None],
) -> None:
    """Trials that train nothing, with Tune's own callback for MLflow on SQLite and warm processes."""
    tracking = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/plain.db", experiment_name="plain")
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable, {"cpu": 1}),
        param_space={
            "learning_rate": ray.tune.loguniform(*LEARNING_RATES),
            "weight_decay": ray.tune.uniform(0.0, 0.1),
        },
        tune_config=ray.tune.TuneConfig(
            search_alg=search, num_samples=num_trials, max_concurrent_trials=max_concurrent, reuse_actors=True
        ),
        run_config=ray.tune.RunConfig(name="plain", storage_path=folder, verbose=0, callbacks=[tracking, Ends(on_end)]),
    )
    tuner.fit()
