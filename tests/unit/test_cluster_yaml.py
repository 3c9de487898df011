from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from common import cluster
from common.cluster import PROJECT_ROOT, resources
from serve.ray_serve import REPLICA_RESOURCE
from tests.node_types import INSTANCES, bootstrap_config, shipped_cluster
from tune.allocation import allocate

ON_OWN_MACHINES = PROJECT_ROOT / "docs" / "clusters" / "own-machines.yaml"
SECRETS = ("password", "secret", "access_key", "token=")


def locked(package: str) -> str:
    """The version that `constraints.txt` pins."""
    lines = (PROJECT_ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return next(line.removeprefix(f"{package}==") for line in lines if line.startswith(f"{package}=="))


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return shipped_cluster()


@pytest.fixture(scope="module")
def on_own_machines() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(ON_OWN_MACHINES.read_text("utf-8"))
    return document


@pytest.fixture(scope="module", params=["cluster.yaml", ON_OWN_MACHINES.name])
def either(request: pytest.FixtureRequest, config: dict[str, Any], on_own_machines: dict[str, Any]) -> dict[str, Any]:
    return config if request.param == "cluster.yaml" else on_own_machines


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = config["available_node_types"]
    return {name: kind for name, kind in kinds.items() if name != config["head_node_type"]}


def test_ray_accepts_the_file_as_it_is_and_with_its_defaults(either: dict[str, Any]) -> None:
    prepared = prepare_config(either)
    validate_config(prepared)
    if "available_node_types" in either:
        assert set(prepared["available_node_types"]) == set(either["available_node_types"])


def test_the_head_offers_neither_cpus_nor_gpus_to_trials(config: dict[str, Any]) -> None:
    head = bootstrap_config()["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]


def test_gpu_workers_are_spot_machines_of_several_types_from_zero(config: dict[str, Any]) -> None:
    kinds = [kind for kind in workers(config).values() if "GPU" in INSTANCES[kind["node_config"]["InstanceType"]]]
    assert len({kind["node_config"]["InstanceType"] for kind in kinds}) == len(kinds) >= 3
    assert len({kind["priority"] for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.get("min_workers", 0) == 0 < kind["max_workers"]
        assert kind["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"


def test_only_cpu_machines_on_demand_hold_replicas_and_they_start_at_zero(config: dict[str, Any]) -> None:
    (serving,) = [kind for kind in workers(config).values() if REPLICA_RESOURCE in kind["resources"]]
    assert serving.get("min_workers", 0) == 0 < serving["max_workers"]
    assert "GPU" not in INSTANCES[serving["node_config"]["InstanceType"]]
    assert "InstanceMarketOptions" not in serving["node_config"]


def test_gpu_machines_cannot_take_the_place_of_serving_machines(config: dict[str, Any]) -> None:
    assert config["max_workers"] == sum(kind["max_workers"] for kind in workers(config).values())


def test_machines_that_do_nothing_go(config: dict[str, Any]) -> None:
    assert 0 < config["idle_timeout_minutes"] <= 10
    assert config["provider"]["cache_stopped_nodes"] is False


def test_a_sweep_takes_one_gpu_a_trial_on_as_many_machines_as_may_come(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from common.recipe import Train
    from common.search_settings import Search

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(bootstrap_config()))
    monkeypatch.setattr(cluster.ray, "nodes", lambda: [{"Alive": True, "Resources": {cluster.HEAD_RESOURCE: 1.0}}])
    allocation = allocate(Train(), resources(), Search(num_trials=20))
    assert (allocation.max_concurrent, allocation.gpus_per_worker, allocation.cpus_per_worker) == (12, 1.0, 4)


def test_every_node_asks_for_the_token_and_has_it(either: dict[str, Any]) -> None:
    assert "~/.ray/auth_token" in either["file_mounts"].values()
    for commands in (either["head_start_ray_commands"], either["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]


def test_the_dashboard_answers_on_the_head_alone(either: dict[str, Any]) -> None:
    assert "--dashboard-host=127.0.0.1" in either["head_start_ray_commands"][-1]


def test_a_stopped_job_has_time_to_leave_what_can_be_resumed(either: dict[str, Any]) -> None:
    for setting in ("RAY_JOB_STOP_SIGNAL=SIGINT", "RAY_JOB_STOP_WAIT_TIME_S=20", "OMP_WAIT_POLICY=passive"):
        assert setting in either["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", ["TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"])
def test_storage_and_tracking_are_given_once(either: dict[str, Any], name: str) -> None:
    assert yaml.safe_dump(either).count(f"{name}=") == 1


def test_no_secret_is_written_in_the_file(either: dict[str, Any]) -> None:
    text = yaml.safe_dump(either).lower()
    assert [word for word in SECRETS if word in text] == []


def test_the_nodes_run_the_versions_that_are_locked(config: dict[str, Any], on_own_machines: dict[str, Any]) -> None:
    for image in (config["docker"]["head_image"], config["docker"]["worker_image"]):
        assert image.startswith(f"rayproject/ray:{locked('ray')}-py3")
    assert f"torch=={locked('torch')}" in config["setup_commands"][0]
    assert "--constraint" in config["setup_commands"][1]
    assert "scripts/install" in " ".join(on_own_machines["setup_commands"])
