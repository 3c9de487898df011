"""A training or a trial as its MLflow run tells of it: enough to train the same again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from common.errors import InputError
from common.provenance import DATA_TAG, ENVIRONMENT_TAG, RESOURCES_TAG
from common.recipe import Recipe
from common.tracking import open_client, sqlite_file
from common.tracking_address import without_password
from tune.sweep import SWEEP_TAG

COMPARED = ("train_loss", "loss", "accuracy", "macro_f1")
"""The metrics that follow from recipe, data and seed; rates and seconds do not."""


@dataclass(frozen=True)
class RunRecord:
    """What was trained, from what, and how it went."""

    run_id: str
    recipe: Recipe
    """With a trial's parameters in place."""
    data_digest: str
    environment: Mapping[str, str]
    """Package versions; empty when none were recorded."""
    resources: Mapping[str, Any]
    """The fields of `Allocation`; empty when none were recorded."""
    epochs: Mapping[int, Mapping[str, float]]
    """By epoch (from 1), the `COMPARED` metrics; fewer than the recipe's epochs when the trial was stopped early."""


def read_run(tracking_uri: str, run_id: str) -> RunRecord:
    """The training or trial of that MLflow run.

    Raises:
        InputError: when there is no such run, or none that can be trained again: a sweep's own, one without an epoch.
    """
    database = sqlite_file(tracking_uri)
    if database is not None and not database.exists():
        raise InputError(f"there is no run {run_id!r}: there is no database {database}; name the storage that holds it")
    client = open_client(tracking_uri)
    try:
        run = client.get_run(run_id)
        parent_id = run.data.tags.get("mlflow.parentRunId")
        parent = client.get_run(parent_id) if parent_id else run
    except MlflowException as error:
        raise InputError(
            f"there is no run {run_id!r} in {without_password(tracking_uri)} ({str(error).strip()}); take the run_id "
            "that `tuneserve train` or `sweep` prints with --json, or MLflow's page shows"
        ) from error
    if SWEEP_TAG in run.data.tags:
        raise InputError(f"run {run_id} is that of a whole sweep; name one of its trials' runs")
    recipe = _recipe(client, parent)
    values = {name: _values(client, run_id, name) for name in COMPARED}
    complete = sorted(set.intersection(*(set(of_epochs) for of_epochs in values.values())))
    epochs = {epoch: {name: values[name][epoch] for name in COMPARED} for epoch in complete}
    if not epochs:
        raise InputError(f"run {run_id} has finished no epoch, so there is nothing to compare with; name another run")
    return RunRecord(
        run_id=run_id,
        recipe=recipe.with_params(_searched(run.data.params, recipe)) if parent_id else recipe,
        data_digest=_data_digest(run, parent),
        environment=json.loads(parent.data.tags.get(ENVIRONMENT_TAG, "{}")),
        resources=json.loads(parent.data.tags.get(RESOURCES_TAG, "{}")),
        epochs=epochs,
    )


def _values(client: MlflowClient, run_id: str, name: str) -> dict[int, float]:
    """By step, the value that was recorded last."""
    history = sorted(client.get_metric_history(run_id, name), key=lambda point: point.timestamp)
    return {point.step: point.value for point in history}


def _recipe(client: MlflowClient, parent: Run) -> Recipe:
    with TemporaryDirectory(prefix="tuneserve-") as folder:
        try:
            file = client.download_artifacts(parent.info.run_id, "recipe.yaml", folder)
        except (MlflowException, OSError) as error:
            raise InputError(
                f"run {parent.info.run_id} has no recipe.yaml among its artifacts ({str(error).strip()}); only runs of "
                "`tuneserve train` and `tuneserve sweep` can be reproduced"
            ) from error
        return Recipe.model_validate(yaml.safe_load(Path(file).read_text(encoding="utf-8")))


def _searched(params: Mapping[str, str], recipe: Recipe) -> dict[str, str]:
    """A trial's parameters and, of one that confirms, its seed; MLflow holds them as text, which the recipe parses."""
    return {name: value for name, value in params.items() if name in recipe.search.space or name == "seed"}


def _data_digest(run: Run, parent: Run) -> str:
    """The full digest; runs of earlier versions have it in their data set alone."""
    for tags in (run.data.tags, parent.data.tags):
        if DATA_TAG in tags:
            return str(tags[DATA_TAG])
    for given in parent.inputs.dataset_inputs if parent.inputs else ():
        return str(json.loads(given.dataset.source)["digest"])
    raise InputError(f"run {run.info.run_id} does not say what rows it was trained on; train it anew")
