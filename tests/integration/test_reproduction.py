"""Training a run again: everything but Ray, which `tests/integration/test_sweep.py` has."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune.trainer
from common.errors import DataError, InputError
from common.machines import Node, Resources
from common.provenance import ENVIRONMENT_TAG
from common.recipe import Train
from common.tokenised import PreparedData
from common.tracking import Tracker
from scripts import reproduction, steps
from scripts.job import Job
from scripts.reproduction import compare, reproduce
from tests.small_job import small_job
from tune.train_loop import history_of, train
from tune.trainer import TrainResult, loop_config

MACHINE = Resources((Node(num_cpus=1, num_gpus=0),))


def fit_here(
    prepared: PreparedData,
    settings: Train,
    *,
    storage_path: str,
    cpus_per_worker: int,
    on_report: Any,
    lora: Any,
    **_: Any,
) -> TrainResult:
    """As Ray Train does, in this process."""
    assert settings.num_workers.max == 1
    Path(storage_path, "run").mkdir(parents=True)
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float], folder: Path | None) -> None:
        assert folder is not None
        assert len(history_of(folder)) == metrics["epoch"]
        reports.append(metrics)
        on_report(metrics)

    train(loop_config(prepared, settings, cpus_per_worker, lora), report)
    return TrainResult(reports[-1], "/checkpoint", tuple(reports), 1.0)


@pytest.fixture(scope="module", autouse=True)
def without_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESERVE_HOME", str(tmp_path_factory.mktemp("home")))
        for module in (steps, reproduction):
            patch.setattr(module, "connect", lambda: nullcontext(SimpleNamespace(is_private=True)))
            patch.setattr(module, "resources", lambda: MACHINE)
        patch.setattr(tune.trainer, "fit", fit_here)
        yield


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return small_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def run_id(job: Job) -> str:
    """Of a training."""
    return str(steps.train(job)["run_id"])


class StoppedError(Exception):
    """Ends a trial."""


def again(job: Job, run_id: str) -> dict[str, Any]:
    return reproduce(run_id, storage=job.storage, mlflow_uri=job.tracking_uri)


def test_a_training_gives_the_same_metrics_again_exactly_and_leaves_nothing(job: Job, run_id: str) -> None:
    result = again(job, run_id)
    assert result["match"] == "exactly"
    assert result["recorded"] == result["reproduced"]
    assert list(result["recorded"]) == ["1", "2"]
    assert result["changed"] == {}
    assert list(Path(job.storage, "reproductions").iterdir()) == []


def test_a_trial_is_trained_with_its_parameters_and_as_long_as_it_was(job: Job, tmp_path: Path) -> None:
    recipe = job.recipe.with_params({"learning_rate": 2e-3, "batch_size": 16, "seed": 4})
    prepared = steps.prepare_data(job)
    tracker = Tracker.open(job.tracking_uri, job.recipe.experiment)
    tags = steps.provenance_tags(prepared.data_digest, {}, {})
    parent = tracker.start("sweep", tags={**tags, "tuneserve.sweep": "s"}, recipe_yaml=job.recipe_yaml)
    params = {"learning_rate": 2e-3, "batch_size": 16, "seed": 4}
    trial = tracker.start("trial-0", params=params, parent_run_id=parent)

    def stop(metrics: dict[str, float]) -> None:
        tracker.log_metrics(trial, metrics, step=int(metrics["epoch"]))
        raise StoppedError  # as ASHA does, of two epochs

    with pytest.raises(StoppedError):
        fit_here(prepared, recipe.train, storage_path=str(tmp_path), cpus_per_worker=1, on_report=stop, lora=None)

    result = again(job, trial)
    assert result["match"] == "exactly"
    assert list(result["reproduced"]) == ["1"]
    with pytest.raises(InputError, match="is that of a whole sweep; name one of its trials' runs"):
        again(job, parent)


def test_other_versions_are_named(job: Job, run_id: str) -> None:
    tracker = Tracker.open(job.tracking_uri, job.recipe.experiment)
    recorded = json.loads(tracker.client.get_run(run_id).data.tags[ENVIRONMENT_TAG])
    tracker.set_tags(run_id, {ENVIRONMENT_TAG: json.dumps({**recorded, "torch": "1.0"})})
    assert again(job, run_id)["changed"] == {"torch": ["1.0", recorded["torch"]]}
    tracker.set_tags(run_id, {ENVIRONMENT_TAG: json.dumps(recorded)})


def test_rows_that_changed_are_an_error_that_says_how(job: Job, run_id: str) -> None:
    path = Path(job.recipe.data.source)
    before = path.read_text()
    path.write_text(before + '"Never heard of before","neutral"\n')
    try:
        with pytest.raises(DataError, match=rf"run {run_id} cannot be reproduced: .*\n  1 \w+ row added: 'Never heard"):
            again(job, run_id)
    finally:
        path.write_text(before)


def test_a_run_that_cannot_be_found_or_trained_again_is_refused(job: Job, run_id: str, tmp_path: Path) -> None:
    tracker = Tracker.open(job.tracking_uri, job.recipe.experiment)
    with pytest.raises(InputError, match="there is no run 'nonsense' in sqlite"):
        again(job, "nonsense")
    with pytest.raises(InputError, match=r"has no recipe\.yaml"):
        again(job, tracker.start("by hand"))
    with pytest.raises(InputError, match="has finished no epoch"):
        again(job, tracker.start("train", recipe_yaml=job.recipe_yaml))
    with pytest.raises(InputError, match="there is no database"):
        reproduce(run_id, storage=str(tmp_path), mlflow_uri=None)


@pytest.mark.parametrize(
    ("loss", "accuracy", "match"),
    [
        (0.5, 0.9, "exactly"),
        (0.509, 0.9, "within_tolerance"),
        (0.5, 0.904, "within_tolerance"),
        (0.511, 0.9, "no"),
        (0.5, 0.91, "no"),
        (float("nan"), 0.9, "no"),
    ],
)
def test_metrics_match_exactly_within_tolerance_or_not(loss: float, accuracy: float, match: str) -> None:
    assert compare({1: {"loss": 0.5, "accuracy": 0.9}}, {1: {"loss": loss, "accuracy": accuracy}})[0] == match


def test_every_run_carries_the_full_digest_and_what_it_held(job: Job, run_id: str) -> None:
    tags = Tracker.open(job.tracking_uri, job.recipe.experiment).client.get_run(run_id).data.tags
    assert tags["tuneserve.data_sha256"] == steps.prepare_data(job).data_digest
    assert json.loads(tags["tuneserve.resources"]) == asdict(steps_allocation(job))


def steps_allocation(job: Job) -> Any:
    from tune.allocation import allocate

    return allocate(job.recipe.train, MACHINE)
