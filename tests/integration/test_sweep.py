"""Sweeps on a real cluster: every trial counted once, whatever ends the driver."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
from transformers import AutoModelForSequenceClassification

from common.errors import InputError, TrainingError
from common.provenance import DATA_TAG, provenance_tags
from common.search_range import Point
from common.tracking_settings import Wandb
from common.wandb_runs import WandbRuns
from scripts.job import Job
from scripts.reproduction import reproduce
from scripts.steps import prepare_data
from tests.fake_wandb import written_runs
from tests.small_job import small_job
from tune.allocation import Allocation
from tune.checkpoint import damage
from tune.step_losses import STEP_LOSS
from tune.study import TrialRecord, journal
from tune.study_place import study_file
from tune.sweep import OnUpdate, SweepResult, sweep

pytestmark = pytest.mark.usefixtures("nothing_is_left")

ONE_AT_ONCE = Allocation(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
TWO_AT_ONCE = Allocation(num_workers=1, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=2)


class Stopped(BaseException):
    """What ends a driver in these tests, as Ctrl-C would."""


def run(
    job: Job,
    on_update: OnUpdate = lambda record: None,
    allocation: Allocation = TWO_AT_ONCE,
    points: Sequence[Point] = (),
    wandb: WandbRuns | None = None,
) -> SweepResult:
    from common.tracking import Tracker

    tracker = Tracker.open(job.tracking_uri, job.recipe.experiment)
    prepared = prepare_data(job)
    return sweep(
        job.recipe,
        prepared,
        sweep_id="sweep-1",
        folder=f"{job.runs}/sweep-1",
        allocation=allocation,
        tracker=tracker,
        recipe_yaml=job.recipe_yaml,
        on_update=on_update,
        points=points,
        wandb=wandb,
        tags=provenance_tags(prepared.data_digest, {}, asdict(allocation)),
    )


def runs_of(job: Job) -> list[Any]:
    client = mlflow.MlflowClient(job.tracking_uri)
    experiment = client.get_experiment_by_name(job.recipe.experiment)
    return list(client.search_runs([experiment.experiment_id]))


def test_a_sweep_ends_with_a_leaderboard_checkpoints_and_one_mlflow_run_a_trial(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.scheduler=fifo", "train.logging_steps=5")
    seen: list[str] = []
    wandb = WandbRuns(Wandb(project="spam", mode="offline"), tmp_path, group="sweep-1")
    result = run(job, lambda record: seen.append(record.state), wandb=wandb)

    assert [trial.state for trial in result.trials] == ["complete"] * 3
    accuracies = [trial.metrics["accuracy"] for trial in result.trials]
    assert accuracies == sorted(accuracies, reverse=True)
    assert "running" in seen
    assert [trial.checkpoint is not None for trial in result.trials] == [True, False, False]
    model = AutoModelForSequenceClassification.from_pretrained(result.best.checkpoint)
    assert set(model.config.id2label.values()) == {"bearish", "bullish", "neutral"}

    runs = {entry.info.run_id: entry for entry in runs_of(job)}
    assert {entry.info.status for entry in runs.values()} == {"FINISHED"}
    children = [e for e in runs.values() if e.data.tags.get("mlflow.parentRunId") == result.run_id]
    assert len(children) == 3
    assert len(runs) == 4
    client = mlflow.MlflowClient(job.tracking_uri)
    best = runs[result.best.run_id or ""]
    assert float(best.data.params["learning_rate"]) == pytest.approx(result.best.params["learning_rate"])
    history = client.get_metric_history(best.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [
        (epoch["epoch"], epoch["accuracy"]) for epoch in result.best.history
    ]
    steps = [point.step for point in client.get_metric_history(best.info.run_id, STEP_LOSS)]
    num_steps = 2 * -(-prepare_data(job).num_rows["train"] // int(result.best.params["batch_size"]))
    assert steps == list(range(5, num_steps + 1, 5))
    assert wandb.close().num_runs == 3
    written = written_runs(tmp_path)
    assert {name: [row["epoch"] for row in trial.history] for name, trial in written.items()} == {
        f"trial-{number}": [1, 2] for number in range(3)
    }
    parent = runs[result.run_id]
    assert parent.inputs.dataset_inputs[0].dataset.digest == prepare_data(job).data_digest[:36]
    assert {run.data.tags[DATA_TAG] for run in runs.values()} == {prepare_data(job).data_digest}

    again = reproduce(result.best.run_id or "", storage=job.storage, mlflow_uri=job.tracking_uri)
    assert (again["match"], again["changed"]) == ("exactly", {})  # by Ray Train, what a warm trial has trained


@pytest.mark.slow
def test_a_driver_that_ends_midway_is_continued_without_repeating_or_losing_a_trial(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=4", "search.scheduler=fifo")

    def stop_after_one(record: TrialRecord) -> None:
        if record.state == "complete":
            raise Stopped

    with pytest.raises(Stopped):
        run(job, stop_after_one)
    assert "RUNNING" not in {entry.info.status for entry in runs_of(job)}
    before = {record.number: record for record in _records(job) if record.state == "complete"}
    assert before

    result = run(job)
    after = {trial.number: trial for trial in result.trials}
    assert sorted(after) == [0, 1, 2, 3]
    assert {trial.state for trial in result.trials} == {"complete"}
    for number, trial in before.items():
        assert (after[number].run_id, after[number].history) == (trial.run_id, trial.history)
    runs = runs_of(job)
    assert len(runs) == 5
    assert {entry.info.status for entry in runs} == {"FINISHED"}


def test_the_best_are_trained_again_with_fresh_seeds_and_a_kill_in_between_repeats_nothing(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=2", "train.epochs=1", "search.confirm={top: 2, seeds: 2}")

    def stop_after_one(record: TrialRecord) -> None:
        if record.state == "complete" and record.seed is not None:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, stop_after_one, ONE_AT_ONCE)
    numbers = {entry.info.run_id for entry in runs_of(job)}
    result = run(job, allocation=ONE_AT_ONCE)
    assert len(result.trials) == 2
    assert {(entry.number, entry.seed) for entry in result.confirm_runs} == {(0, 1), (0, 2), (1, 1), (1, 2)}
    assert {entry.state for entry in result.confirm_runs} == {"complete"}
    means = [trial.confirmation.mean for trial in result.trials if trial.confirmation]
    assert means == sorted(means, reverse=True)
    assert len(means) == 2
    assert (result.best.number, result.best.seed in (1, 2)) == (result.trials[0].number, True)
    assert result.best.checkpoint is not None
    runs = {entry.info.run_id: entry for entry in runs_of(job)}
    assert numbers <= set(runs)
    confirming = [entry for entry in runs.values() if "tuneserve.confirms" in entry.data.tags]
    assert {entry.data.tags["mlflow.parentRunId"] for entry in confirming} == {result.run_id}
    assert (len(confirming), len(runs)) == (4, 7)
    assert {entry.info.status for entry in runs.values()} == {"FINISHED"}


@pytest.mark.slow
def test_a_trial_whose_newest_checkpoint_was_cut_short_goes_on_from_the_one_before(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=1", "train.epochs=4")

    def stop_in_the_third_epoch(record: TrialRecord) -> None:
        if len(record.history) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, stop_in_the_third_epoch, ONE_AT_ONCE)
    (before,) = _records(job)
    assert before.latest_checkpoint is not None
    assert before.fallback_checkpoint is not None
    weights = Path(before.latest_checkpoint, "model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])

    (after,) = run(job, allocation=ONE_AT_ONCE).trials
    assert (after.state, len(after.history)) == ("complete", 4)
    assert after.history[0] == before.history[0]  # its seconds too: the first epoch was not trained again
    assert after.history[1]["seconds"] != before.history[1]["seconds"]
    assert after.history[1]["loss"] == pytest.approx(before.history[1]["loss"])
    assert after.checkpoint is not None
    assert damage(after.checkpoint) is None


def test_a_diverging_trial_fails_with_its_reason_and_the_sweep_goes_on(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "search.space={learning_rate: {choice: [1.0e+30, 1.0e-3]}}", "search.num_trials=2", "train.epochs=1"
    )
    result = run(job, allocation=ONE_AT_ONCE, points=[{"learning_rate": rate} for rate in (1e30, 1e-3)])
    by_rate = {trial.params["learning_rate"]: trial for trial in result.trials}
    assert set(by_rate) == {1e30, 1e-3}
    assert by_rate[1e-3].state == "complete"
    assert by_rate[1e30].state == "failed"
    assert "1e+30" in (by_rate[1e30].failure or "")
    assert result.best.params["learning_rate"] == 1e-3
    assert len(result.trials) == 2


def test_a_time_budget_ends_the_sweep_and_leaves_no_run_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small_job(tmp_path, "search.time_budget_s=3600", "train.epochs=500", "search.num_trials=2")
    now = [1.0]
    monkeypatch.setattr("tune.time_budget.time", SimpleNamespace(monotonic=lambda: now[0]))

    def an_hour_later(record: TrialRecord) -> None:
        if record.latest_checkpoint:  # an epoch without one is no result
            now[0] = 3602.0

    result = run(job, an_hour_later, ONE_AT_ONCE)
    assert {trial.state for trial in result.trials} <= {"pruned", "failed"}
    assert result.best.metrics
    assert {entry.info.status for entry in runs_of(job)} == {"FINISHED"}


def test_a_sweep_in_which_every_trial_fails_says_why(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.space={learning_rate: {fixed: 1.0e+30}}", "search.num_trials=1")
    with pytest.raises(TrainingError, match=r"none of 1 trials .* 1e\+30"):
        run(job)
    assert {entry.info.status for entry in runs_of(job)} == {"FAILED"}


@pytest.mark.slow
def test_two_groups_of_two_workers_train_at_once(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=2", "train.num_workers=2", "train.epochs=1")
    result = run(job, allocation=Allocation(2, 1, 0.0, max_concurrent=2))
    assert {trial.state for trial in result.trials} <= {"complete", "pruned"}
    assert result.best.checkpoint is not None
    AutoModelForSequenceClassification.from_pretrained(result.best.checkpoint)


@pytest.mark.slow
def test_a_sweep_is_not_continued_with_another_recipe(tmp_path: Path) -> None:
    run(small_job(tmp_path, "search.num_trials=1", "train.epochs=1"))
    with pytest.raises(InputError, match=r"started with another recipe:\n  train.epochs: 1 -> 2\n"):
        run(small_job(tmp_path, "search.num_trials=2", "train.epochs=2"))
    assert len(run(small_job(tmp_path, "search.num_trials=2", "train.epochs=1")).trials) == 2


def _records(job: Job) -> list[TrialRecord]:
    from tune.study import StudySearch

    storage = journal(study_file(f"{job.runs}/sweep-1"))
    return StudySearch(job.recipe.search, name="sweep-1", storage=storage, epochs=2).records()
