"""A driver whose wall clock is set three days on, and back, in its sweep; the rest of the cluster keeps the time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from scripts.job import stored_runs
from tests.services import read_until
from tests.small_job import write_recipe

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
ROOT = Path(__file__).parents[2]
JUMP_DAYS = 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("cluster"),
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (Debian's package faketime)"),
]


def test_a_clock_that_is_set_back_and_forth_ends_no_sweep_and_loses_no_epoch(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0")
    recipe, storage = write_recipe(tmp_path, name="clock"), tmp_path / "storage"
    # The budget is far longer than the sweep and far shorter than the jump.
    overrides = ["search.num_trials=3", "search.scheduler=fifo", "search.max_concurrent=1", "search.time_budget_s=3600"]
    faked = {
        "LD_PRELOAD": str(LIBRARIES[-1]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "scripts.cli", "sweep", str(recipe), *overrides, "--storage", str(storage)]
    began_at = time.time()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **faked}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stderr is not None
        said = read_until("epoch 1", driver.stderr)
        clock.write_text(f"+{JUMP_DAYS}d")
        said += read_until("1 complete", driver.stderr)
        clock.write_text("+0")
        said += driver.stderr.read()
    assert driver.returncode == 0, said

    ((sweep_id, result),) = stored_runs(str(storage))
    assert result is not None, sweep_id
    for trial in result["trials"]:
        assert (trial["state"], [epoch["epoch"] for epoch in trial["history"]]) == ("complete", [1, 2])
    client = mlflow.MlflowClient(f"sqlite:///{storage}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("clock").experiment_id])
    assert len(runs) == 4
    assert {entry.info.status for entry in runs} == {"FINISHED"}
    first = client.get_metric_history(result["trials"][0]["run_id"], "accuracy")
    assert len(first) == 2
    # So the clock did jump, in this process.
    latest = max(run.info.end_time for run in runs)
    assert latest / 1000 > began_at + (JUMP_DAYS - 1) * 86400
