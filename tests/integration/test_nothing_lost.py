"""Whatever ends a driver, a worker or a node: no trial is lost, none is repeated, none is counted twice."""

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import ray
import ray.util.state

from common.cluster import Connection, read_record
from common.errors import StorageError
from scripts.job import Job, stored_runs
from tests.integration.test_line import tuneserve
from tests.integration.test_sweep import run, runs_of
from tests.nodes import added_nodes
from tests.small_job import small_job, write_recipe
from tests.warm_command import Command
from tune.allocation import Allocation
from tune.study import TrialRecord, stored_study

pytestmark = pytest.mark.usefixtures("cluster")

NUM_TRIALS = 4
EVENTS = 20
"""About as many lines as an undisturbed sweep of so many trials prints."""


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_a_driver_killed_at_a_random_moment_loses_and_repeats_nothing(seed: int, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, name="killed", num_rows=200)
    storage = str(tmp_path / "storage")
    command = [str(recipe), f"search.num_trials={NUM_TRIALS}", "--storage", storage]
    moment = random.Random(seed)
    killed = Command("sweep", *command)
    _kill_after(killed, events=moment.randrange(EVENTS), and_s=moment.random())
    before = _finished(storage)

    code, _, said = tuneserve("sweep", "--resume", *command)
    if code == 2:  # it was killed before there was anything to resume, or had just finished
        assert "no interrupted sweep" in said
        if not _runs(storage):
            code, _, said = tuneserve("sweep", *command)
        else:
            code = 0
    assert code == 0, said

    ((sweep_id, result),) = stored_runs(storage)
    assert result is not None, sweep_id
    trials = {trial["number"]: trial for trial in result["trials"]}
    assert sorted(trials) == list(range(NUM_TRIALS))
    for trial in trials.values():
        assert [epoch["epoch"] for epoch in trial["history"]] == list(range(1, len(trial["history"]) + 1))
        assert trial["state"] in ("complete", "pruned")
    for number, record in before.items():
        assert trials[number]["history"] == list(record.history)
        assert record.run_id in (trials[number]["run_id"], None)  # MLflow is written a moment later than the study
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("killed").experiment_id])
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    assert Counter(entry.info.run_name for entry in runs) == {
        sweep_id: 1,
        **{f"trial-{number}": 1 for number in range(NUM_TRIALS)},
    }


def _kill_after(process: Command, events: int, and_s: float) -> None:
    """SIGKILL so many seconds after so many lines."""
    for _ in range(events):
        if not process.stderr.readline():
            break
    killer = threading.Timer(and_s, process.kill)
    killer.start()
    process.communicate()
    killer.cancel()


def _runs(storage: str) -> list[Any]:
    return stored_runs(storage) if Path(storage).is_dir() else []


def _finished(storage: str) -> dict[int, TrialRecord]:
    """The trials that a killed driver's study holds as finished."""
    studies = [
        stored_study(Path(storage) / "runs" / sweep_id / "study.journal", sweep_id) for sweep_id, _ in _runs(storage)
    ]
    trials = [trial for study in studies if study for trial in study.trials]
    return {trial.number: trial for trial in trials if trial.state != "running"}


def _trial_processes() -> list[psutil.Process]:
    """The processes that train on this test's cluster."""
    record = read_record()
    assert record is not None
    actors = ray.util.state.list_actors(address=record.dashboard_url, filters=[("state", "=", "ALIVE")], detail=True)
    return [psutil.Process(actor.pid) for actor in actors if actor.class_name.endswith("ImplicitFunc")]


def test_a_killed_worker_costs_no_epoch_that_was_saved(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=2", "search.scheduler=fifo", "train.epochs=4")
    killed: list[int] = []

    def kill_once(record: TrialRecord) -> None:
        if not killed and record.state == "running" and len(record.history) == 2:
            killed.extend(process.pid for process in _trial_processes())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    result = run(job, kill_once, Allocation(1, 1, 0.0, max_concurrent=1))
    assert killed
    assert [trial.state for trial in result.trials] == ["complete"] * 2
    for trial in result.trials:
        assert [epoch["epoch"] for epoch in trial.history] == [1, 2, 3, 4]
    assert {entry.info.status for entry in runs_of(job)} == {"FINISHED"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at its start", "in an epoch", "at a checkpoint"])
def test_a_trial_on_a_killed_node_continues_on_another(moment: str, tmp_path: Path, cluster: Connection) -> None:
    job = small_job(tmp_path, "search.num_trials=1", "search.scheduler=fifo", "train.epochs=4")
    head_cpus = int(ray.cluster_resources()["CPU"])
    blocker = ray.util.placement_group([{"CPU": head_cpus}])
    ray.get(blocker.ready())
    with added_nodes(tmp_path, 1, num_cpus=1) as (node,):
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            node.kill()
            ray.util.remove_placement_group(blocker)

        def watch(record: TrialRecord) -> None:
            if killed.is_set():
                return
            if moment == "at its start" or (moment == "in an epoch" and len(record.history) == 2):
                kill()

        watcher = threading.Thread(target=_at_a_checkpoint, args=(job, kill), daemon=True)
        if moment == "at a checkpoint":
            watcher.start()
        result = run(job, watch, Allocation(1, 1, 0.0, max_concurrent=1))
    assert killed.is_set()
    assert [trial.state for trial in result.trials] == ["complete"]
    assert [epoch["epoch"] for epoch in result.best.history] == [1, 2, 3, 4]


def _at_a_checkpoint(job: Job, kill: Callable[[], None]) -> None:
    """Kills when a second checkpoint begins to be there."""
    while not any("checkpoint_000001" in str(path) for path in Path(job.runs).rglob("checkpoint_*")):
        time.sleep(0.001)
    kill()


@pytest.mark.slow
def test_disk_holds_the_best_and_what_runs_whatever_the_number_of_trials(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=6", "train.epochs=3")
    most: list[int] = []
    result = run(job, lambda record: most.append(checkpoint_bytes(job)), Allocation(1, 1, 0.0, max_concurrent=2))
    assert result.best.checkpoint is not None
    model_bytes = (Path(result.best.checkpoint) / "model.safetensors").stat().st_size
    with_optimiser = 3.1 * model_bytes  # two moments for each weight, tokenizer and history
    assert checkpoint_bytes(job) < 1.5 * model_bytes
    # The best, and of each of two running trials its two best and its newest, while the next one is written.
    assert max(most) < 1.5 * model_bytes + 2 * 4 * with_optimiser


def checkpoint_bytes(job: Job) -> int:
    """What lies in checkpoint folders at this moment; they come and go meanwhile."""
    total = 0
    for file in Path(job.runs).rglob("*"):
        if "checkpoint_" in str(file.parent):
            with suppress(FileNotFoundError):
                total += file.stat().st_size
    return total


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_the_sweep_with_a_clear_error_and_it_goes_on_once_there_is_room(tmp_path: Path) -> None:
    job = small_job(tmp_path, "search.num_trials=2", "search.scheduler=fifo")
    one_at_once = Allocation(1, 1, 0.0, max_concurrent=1)
    Path(job.runs).mkdir(parents=True)
    with small_disk(Path(job.runs), megabytes=5) as disk:  # a checkpoint with its optimiser's state has 6
        with pytest.raises(StorageError, match=r"cannot be written: .*No space left on device.*run the same command"):
            run(job, allocation=one_at_once)
        assert "RUNNING" not in {entry.info.status for entry in runs_of(job)}
        disk(200)
        result = run(job, allocation=one_at_once)
        assert [trial.state for trial in result.trials] == ["complete"] * 2
        assert [len(trial.history) for trial in result.trials] == [2, 2]
        assert len(runs_of(job)) == 3
        assert {entry.info.status for entry in runs_of(job)} == {"FINISHED"}


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Callable[[int], None]]:
    """A disk of that size at `folder`; yields what gives it another."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}m", folder], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
