"""Which machines of `cluster.yaml` Ray's autoscaler starts for what waits: its scheduler, asked without a cluster."""

from collections import Counter
from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from serve.ray_serve import REPLICA_RESOURCE
from tests.node_types import bootstrap_config

TRIAL = {"CPU": 4, "GPU": 1}
REPLICA = {REPLICA_RESOURCE: 1}


def started(*waiting: dict[str, float], without: tuple[str, ...] = ()) -> dict[str, int]:
    """How many machines of each type; `without` are types that the cloud has just refused."""
    config = bootstrap_config()
    types = {name: of_type(name, kind) for name, kind in config["available_node_types"].items() if name != "head"}
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=config["max_workers"],
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(bundle) for bundle in waiting]),
        recoverable_resource_availabilities=dict.fromkeys(without, 0.0),
    )
    reply = ResourceDemandScheduler(None).schedule(request)
    return dict(Counter({launch.instance_type: launch.count for launch in reply.to_launch}))


def of_type(name: str, kind: dict[str, Any]) -> NodeTypeConfig:
    return NodeTypeConfig(
        name=name,
        min_worker_nodes=kind.get("min_workers", 0),
        max_worker_nodes=kind["max_workers"],
        priority=kind.get("priority", 0),
        resources=kind["resources"],
    )


def test_nothing_waits_and_nothing_is_started() -> None:
    assert started() == {}


@pytest.mark.parametrize(
    ("refused", "taken"),
    [
        ((), "gpu_spot_l4"),
        (("gpu_spot_l4",), "gpu_spot_a10g"),
        (("gpu_spot_l4", "gpu_spot_a10g"), "gpu_spot_t4"),
    ],
)
def test_trials_get_a_machine_each_of_the_first_type_that_can_be_had(refused: tuple[str, ...], taken: str) -> None:
    assert started(TRIAL, TRIAL, without=refused) == {taken: 2}


def test_a_large_sweep_takes_every_type_and_leaves_endpoints_their_machine() -> None:
    assert started(*[TRIAL] * 20, REPLICA) == {
        "gpu_spot_l4": 4,
        "gpu_spot_a10g": 4,
        "gpu_spot_t4": 4,
        "cpu_serving": 1,
    }


@pytest.mark.parametrize(("num_replicas", "num_machines"), [(1, 1), (4, 1), (5, 2), (8, 2), (20, 2)])
def test_replicas_share_machines_for_endpoints_up_to_their_places(num_replicas: int, num_machines: int) -> None:
    assert started(*[REPLICA] * num_replicas) == {"cpu_serving": num_machines}


def test_work_without_a_gpu_takes_no_gpu_machine() -> None:
    assert started({"CPU": 4}) == {"cpu_serving": 1}
