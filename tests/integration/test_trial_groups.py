"""Trials of several workers: one Ray Train group trains them all, and outlives what happens to them."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.util.state
import torch
from safetensors.torch import load_file

from tests.integration.test_sweep import Stopped, run, runs_of
from tests.small_job import small_job
from tune.allocation import Allocation
from tune.study import TrialRecord

pytestmark = pytest.mark.usefixtures("nothing_is_left")

GROUP = Allocation(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
CURVE = ("train_loss", "loss", "accuracy", "macro_f1")


def pids(class_name: str) -> set[int]:
    """Of the actors of this driver that are alive."""
    here = ray.get_runtime_context().gcs_address  # or other clusters on this machine would be asked
    job = ray.get_runtime_context().get_job_id()
    alive = ray.util.state.list_actors(here, filters=[("state", "=", "ALIVE"), ("job_id", "=", job)])
    return {actor.pid for actor in alive if actor.class_name.endswith(class_name)}


def curve(trial: TrialRecord) -> list[tuple[float, ...]]:
    return [tuple(epoch[name] for name in CURVE) for epoch in trial.history]


def test_one_group_trains_all_trials_and_each_as_a_new_group_would_whatever_came_before(tmp_path: Path) -> None:
    rates = (5e-4, 1e30, 1e-2, 5e-4)  # the second diverges; the third begins worse, and ASHA stops it
    job = small_job(
        tmp_path,
        "search.space={learning_rate: {choice: [5.0e-4, 1.0e+30, 1.0e-2]}}",
        "search.metric=loss",
        "search.num_trials=4",
        "train.num_workers=2",
    )
    workers: set[int] = set()
    kept: dict[int, Any] = {}

    def watch(record: TrialRecord) -> None:
        workers.update(pids("RayTrainWorker"))
        if record.state == "running" and record.checkpoint and len(record.history) == 2:
            kept[record.number] = load_file(f"{record.latest_checkpoint}/model.safetensors")

    result = run(job, watch, GROUP, points=[{"learning_rate": rate} for rate in rates])
    assert len(workers) == 2
    first, diverged, stopped, later = sorted(result.trials, key=lambda trial: trial.number)
    assert [trial.state for trial in (first, diverged, stopped, later)] == ["complete", "failed", "pruned", "complete"]
    assert curve(later) == curve(first)
    assert sorted(kept) == [0, 3]
    assert all(torch.equal(tensor, kept[0][name]) for name, tensor in kept[3].items())


@pytest.mark.slow
def test_an_interrupted_group_leaves_nothing_behind(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=1", "train.num_workers=2", "train.epochs=500")

    def stop_after_an_epoch(record: TrialRecord) -> None:
        if record.history:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, stop_after_an_epoch, GROUP)
    assert "RUNNING" not in {entry.info.status for entry in runs_of(job)}


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["RayTrainWorker", "ImplicitFunc"])
def test_a_killed_process_of_a_group_costs_no_epoch_that_was_stored(killed: str, tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=1", "train.num_workers=2", "train.epochs=5")
    victims: set[int] = set()

    def kill_once(record: TrialRecord) -> None:
        if not victims and len(record.history) == 2:
            victims.update(list(pids(killed))[:1])
            for pid in victims:
                os.kill(pid, signal.SIGKILL)

    (trial,) = run(job, kill_once, GROUP).trials
    assert victims
    assert trial.state == "complete"
    assert [epoch["epoch"] for epoch in trial.history] == [1, 2, 3, 4, 5]
