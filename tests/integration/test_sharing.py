"""Several jobs on a full cluster: none starves."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration.test_sweep import run
from tests.small_job import small_job
from tune import neighbours
from tune.allocation import Allocation
from tune.study import TrialRecord

pytestmark = pytest.mark.usefixtures("nothing_is_left")

NUM_TRIALS = 4


@pytest.mark.parametrize(
    ("num_workers", "max_concurrent"),
    [pytest.param(1, 2, id="processes"), pytest.param(2, 1, id="a group", marks=pytest.mark.slow)],
)
def test_a_job_that_comes_to_a_full_cluster_gets_room_when_a_trial_ends_and_the_sweep_goes_on(
    num_workers: int, max_concurrent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "PATIENCE_S", 0.0)
    monkeypatch.setattr(neighbours, "LOOK_INTERVAL_S", 0.0)
    job = small_job(tmp_path, f"search.num_trials={NUM_TRIALS}", "train.epochs=1", f"train.num_workers={num_workers}")
    whole_cluster = Allocation(num_workers, cpus_per_worker=2, gpus_per_worker=0.0, max_concurrent=max_concurrent)
    ended: set[int] = set()
    ended_before_it_had_room: list[int] = []
    waits = threading.Event()
    command = [sys.executable, "-m", "tests.neighbour", "2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:

        def listen() -> None:
            for line in other.stdout or ():
                if line == "has room\n":
                    ended_before_it_had_room.append(len(ended))
                waits.set()
            waits.set()

        def watch(record: TrialRecord) -> None:
            if record.history and not waits.is_set():  # so the sweep's processes have what they need
                assert other.stdin is not None
                other.stdin.close()
                waits.wait()
            if record.state == "complete":
                ended.add(record.number)

        listener = threading.Thread(target=listen)
        listener.start()
        result = run(job, watch, whole_cluster)
        listener.join()
    (num_before,) = ended_before_it_had_room
    assert num_before <= NUM_TRIALS - max_concurrent  # and not for want of further trials
    assert [trial.state for trial in result.trials] == ["complete"] * NUM_TRIALS
