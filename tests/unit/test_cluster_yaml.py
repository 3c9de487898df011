from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from common.cluster import PROJECT_ROOT


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "cluster.yaml").read_text())
    return document


def test_ray_accepts_the_file_as_it_is_and_with_its_defaults(config):
    prepared = prepare_config(config)
    validate_config(prepared)
    assert set(prepared["available_node_types"]) == set(config["available_node_types"])


def test_the_head_has_no_gpu_and_the_workers_are_spot_gpus_from_zero(config):
    types = dict(config["available_node_types"])
    head = types.pop(config["head_node_type"])
    assert not head["node_config"]["InstanceType"].startswith(("g", "p"))
    assert types
    for worker in types.values():
        assert worker["min_workers"] == 0
        assert 0 < worker["max_workers"] <= config["max_workers"]
        assert worker["node_config"]["InstanceType"].startswith(("g", "p"))
        assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_every_node_asks_for_the_token_and_has_it(config):
    assert "~/.ray/auth_token" in config["file_mounts"].values()
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]


def test_the_nodes_run_the_version_of_ray_that_is_locked(config):
    locked = [line for line in (PROJECT_ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    version = locked[0].removeprefix("ray==")
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        assert image.startswith(f"rayproject/ray:{version}-py3")
