"""However a sweep ends, it leaves nothing behind on the cluster."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.util
import ray.util.state

from common.errors import TrainingError
from tests.integration.test_sweep import TWO_AT_ONCE, Stopped, run, runs_of
from tests.small_job import small_job
from tune.allocation import Allocation
from tune.study import TrialRecord

pytestmark = pytest.mark.usefixtures("cluster")

GROUPS = Allocation(num_workers=2, cpus_per_worker=1, gpus_per_worker=0.0, max_concurrent=1)
DEADLINE_S = 30.0


def actors() -> list[Any]:
    """Of this driver, but for the one that Ray Train keeps in a cluster once it was used there."""
    here = ray.get_runtime_context().gcs_address  # or other clusters on this machine would be asked
    job = ray.get_runtime_context().get_job_id()
    alive = ray.util.state.list_actors(here, filters=[("state", "!=", "DEAD"), ("job_id", "=", job)])
    return [actor for actor in alive if actor.name != "AutoscalingCoordinator"]


def placement_groups() -> set[str]:
    table = ray.util.placement_group_table()
    return {group_id for group_id, group in table.items() if group["state"] != "REMOVED"}


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: {actors()}"
        time.sleep(0.2)


@pytest.mark.parametrize("allocation", [TWO_AT_ONCE, GROUPS], ids=["warm", "groups"])
@pytest.mark.parametrize("ends_by", ["finishing", "failing", "interruption"])
def test_a_sweep_leaves_no_actor_no_placement_group_and_no_process(
    ends_by: str, allocation: Allocation, tmp_path: Path
) -> None:
    overrides = {"failing": "search.space={learning_rate: {fixed: 1.0e+30}}", "interruption": "train.epochs=500"}
    workers = f"train.num_workers={allocation.num_workers}"
    job = small_job(tmp_path, "search.num_trials=2", workers, overrides.get(ends_by, "train.epochs=1"))
    others = {actor.actor_id for actor in actors()}  # of other tests, such as Serve's
    groups_of_others = placement_groups()
    pids: set[int] = set()

    def own() -> list[Any]:
        return [actor for actor in actors() if actor.actor_id not in others]

    def watch(record: TrialRecord) -> None:
        pids.update(actor.pid for actor in own() if actor.pid)
        if ends_by == "interruption" and record.history:
            raise Stopped

    expected = {"failing": TrainingError, "interruption": Stopped}.get(ends_by)
    with pytest.raises(expected) if expected else contextlib.nullcontext():
        run(job, watch, allocation)
    assert pids
    assert placement_groups() <= groups_of_others
    wait_until(lambda: not own(), "actors are left")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "processes are left")
    assert "RUNNING" not in {entry.info.status for entry in runs_of(job)}
