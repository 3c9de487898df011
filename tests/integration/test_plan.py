"""The cost of a sweep, measured on a cluster before anything starts."""

from pathlib import Path

import pytest

from common.cluster import Connection
from common.errors import InputError
from scripts.steps import check, sweep
from tests.small_job import small_job

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.mark.slow
def test_check_measures_on_the_cluster_and_keeps_nothing(tmp_path: Path) -> None:
    job = small_job(tmp_path)
    plan = check(job, measure=True)["plan"]
    assert 0 < plan["first_rung_s"] < plan["expected_s"] <= plan["bound_s"]
    assert plan["device_hours"] == pytest.approx(plan["max_concurrent"] * plan["expected_s"] / 3600)
    assert plan["disk_bytes"] > 0
    assert not Path(job.storage).exists()


def test_a_sweep_whose_budget_no_trial_can_meet_is_refused_before_anything_is_written(
    tmp_path: Path, cluster: Connection
) -> None:
    job = small_job(tmp_path, "search.time_budget_s=0.05")
    with pytest.raises(InputError, match=r"time_budget_s 0\.05 is too short for a single trial"):
        sweep(job)
    assert [path for path in Path(job.storage).rglob("*") if "mlflow" not in path.name and path.is_file()] in (
        [],
        [Path(job.runs) / ".small.lock"],
    )
