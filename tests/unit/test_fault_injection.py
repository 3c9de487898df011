import pytest

from scripts.fault_injection import all_run, running_pids


def details(*replicas: tuple[str, int | None], status: str = "RUNNING") -> dict[str, object]:
    deployment = {"replicas": [{"state": state, "pid": pid} for state, pid in replicas]}
    return {"applications": {"news": {"status": status, "deployments": {"Model": deployment}}}}


def test_only_a_replica_that_is_ready_can_be_killed() -> None:
    found = details(("RUNNING", 7), ("STARTING", 8), ("RUNNING", None), ("STOPPING", 9))

    assert running_pids(found, "news", "Model") == [7]
    assert running_pids(found, "olds", "Model") == []
    assert running_pids({}, "news", "Model") == []


@pytest.mark.parametrize(("status", "expected"), [("RUNNING", True), ("DEPLOYING", False), ("UNHEALTHY", False)])
def test_all_run_when_every_application_does(status: str, expected: bool) -> None:
    assert all_run(details(status=status)) is expected
    assert not all_run({})  # a controller that has just restarted knows none
