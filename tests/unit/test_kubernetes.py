"""The manifests for KubeRay: Ray's own reading of them, and what they have in common with `cluster.yaml`."""

import re
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.serve.schema import ServeDeploySchema

from common.cluster import PROJECT_ROOT
from serve.backend import STANDBY
from serve.endpoints import GATEWAY
from tests.node_types import shipped_cluster

FOLDER = PROJECT_ROOT / "docs" / "clusters" / "kubernetes"
DOCKERFILES = ("Dockerfile", "serving.Dockerfile")
SPECS = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Where each kind holds the cluster."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text("utf-8")))


def manifest(kind: str) -> dict[str, Any]:
    (document,) = documents(kind.lower())
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    return document


def cluster_in(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(kind)["spec"]
    for key in SPECS[kind]:
        spec = spec[key]
    return spec


def groups_of(kind: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster_in(kind)["workerGroupSpecs"]}


def containers(kind: str) -> list[dict[str, Any]]:
    cluster = cluster_in(kind)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def config_map(name: str) -> dict[str, Any]:
    found = [d["data"] for d in documents("places") if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name]
    return dict(found[0])


def as_rays_autoscaler_reads(kind: str) -> dict[str, Any]:
    cr = {"metadata": {"namespace": "default", "name": "x"}, "spec": cluster_in(kind)}
    config: dict[str, Any] = _derive_autoscaling_config_from_ray_cr(cr)
    return config


def test_the_commands_are_told_of_the_pods_that_rays_autoscaler_may_start() -> None:
    told = yaml.safe_load(config_map("tuneserve-machines")["ray_bootstrap_config.yaml"])
    known = as_rays_autoscaler_reads("RayCluster")
    assert {key: told[key] for key in ("max_workers", "head_node_type")} == {
        key: known[key] for key in ("max_workers", "head_node_type")
    }
    assert told["available_node_types"] == {
        name: {
            "max_workers": kind["max_workers"],
            "resources": {key: amount for key, amount in kind["resources"].items() if key != "memory"},
        }
        for name, kind in known["available_node_types"].items()
    }


def test_the_worker_groups_are_those_of_aws() -> None:
    ours = {name: kind for name, kind in groups_of("RayCluster").items() if "gpu" in name}
    theirs = {
        name.replace("_", "-"): kind
        for name, kind in shipped_cluster()["available_node_types"].items()
        if name.startswith("gpu")
    }
    assert {
        name: (group["template"]["spec"]["nodeSelector"]["node.kubernetes.io/instance-type"], group["priority"])
        for name, group in ours.items()
    } == {name: (kind["node_config"]["InstanceType"], kind["priority"]) for name, kind in theirs.items()}
    serving = shipped_cluster()["available_node_types"]["cpu_serving"]
    read = as_rays_autoscaler_reads("RayCluster")["available_node_types"]
    assert {name: kind["max_workers"] for name, kind in read.items() if name != "headgroup"} == {
        **{name: kind["max_workers"] for name, kind in theirs.items()},
        "cpu-serving": serving["max_workers"],
    }
    assert read["cpu-serving"]["resources"]["tuneserve_replica"] == serving["resources"]["tuneserve_replica"]


def test_a_group_has_the_same_parameters_in_every_manifest() -> None:
    shared = groups_of("RayCluster")
    for name, group in groups_of("RayJob").items():
        assert group == shared[name]
    (serving,) = as_rays_autoscaler_reads("RayService")["available_node_types"].keys() - {"headgroup"}
    of_service = as_rays_autoscaler_reads("RayService")["available_node_types"][serving]
    assert of_service == as_rays_autoscaler_reads("RayCluster")["available_node_types"][serving]
    assert cluster_in("RayService")["headGroupSpec"] == cluster_in("RayCluster")["headGroupSpec"]


@pytest.mark.parametrize("kind", SPECS)
def test_everything_but_the_head_starts_at_zero_and_the_idle_go(kind: str) -> None:
    cluster = cluster_in(kind)
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == shipped_cluster()["idle_timeout_minutes"] * 60
    assert {group["replicas"] for group in cluster["workerGroupSpecs"]} == {0}
    assert {group["minReplicas"] for group in cluster["workerGroupSpecs"]} == {0}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("kind", SPECS)
def test_only_holders_of_the_token_get_in_and_nothing_is_public(kind: str) -> None:
    text = (FOLDER / f"{kind.lower()}.yaml").read_text("utf-8")
    assert cluster_in(kind)["authOptions"] == {"mode": "token"}
    assert re.search("LoadBalancer|NodePort|hostNetwork", text) is None
    for container in containers(kind):
        names = [variable["name"] for variable in container.get("env", [])]
        assert [name for name in names if re.search("KEY|SECRET|PASSWORD|TOKEN", name)] == []


@pytest.mark.parametrize("kind", SPECS)
def test_every_pod_has_the_places_and_they_are_given_once(kind: str) -> None:
    assert set(config_map("tuneserve-places")) == {"TUNESERVE_STORAGE", "MLFLOW_TRACKING_URI"}
    for container in containers(kind):
        assert container["envFrom"] == [{"configMapRef": {"name": "tuneserve-places"}}]
    assert "TUNESERVE_STORAGE" not in (FOLDER / f"{kind.lower()}.yaml").read_text("utf-8")


def locked(package: str) -> str:
    lines = (PROJECT_ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return next(line.removeprefix(f"{package}==") for line in lines if line.startswith(f"{package}=="))


def dockerfile(name: str) -> str:
    return (PROJECT_ROOT / "docs" / "clusters" / name).read_text("utf-8")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_and_does_not_run_as_root(name: str) -> None:
    (base,) = re.findall(r"^FROM \S+:(\S+)$", dockerfile(name), re.MULTILINE)
    assert re.match(r"\d+\.\d+\.\d+-", base)
    assert re.findall(r"^USER (\d+)$", dockerfile(name), re.MULTILINE)[-1:] == ["1000"]
    for install in re.findall(r"pip install .+", dockerfile(name)):
        assert "--constraint constraints.txt" in install or re.search(r"==\S+$", install)


def test_the_serving_image_takes_the_place_of_the_other_one() -> None:
    """The same user and folder, so that the paths in the manifests hold; the serving half of the packages alone."""
    for line in ("WORKDIR /home/ray/tuneserve", "COPY --chown=ray:users recipes recipes"):
        assert all(line in dockerfile(name) for name in DOCKERFILES)
    assert '--editable ".[serve]"' in dockerfile("serving.Dockerfile")
    assert "torch==" not in dockerfile("serving.Dockerfile")


def test_the_images_hold_the_versions_that_are_locked() -> None:
    recipe = dockerfile("Dockerfile")
    assert re.findall(r"^FROM (\S+)$", recipe, re.MULTILINE) == [f"rayproject/ray:{locked('ray')}-py311-${{DEVICE}}"]
    assert f"torch=={locked('torch')}" in recipe
    assert "--constraint constraints.txt" in recipe
    for kind in SPECS:
        assert cluster_in(kind)["rayVersion"] == locked("ray")
    images = {container["image"] for kind in SPECS for container in containers(kind)}
    built = set(re.findall(r"-t (\S+)", recipe))
    assert images == built


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_holds_every_package_and_the_recipes(name: str) -> None:
    copied = set(re.findall(r"^COPY \S+ (\w+) \1$", dockerfile(name), re.MULTILINE))
    assert copied == {"common", "tune", "serve", "scripts", "recipes"}


def test_serve_accepts_the_declared_applications_by_the_names_that_the_gateway_looks_for() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(manifest("RayService")["spec"]["serveConfigV2"]))
    assert config.proxy_location == "Disabled"
    assert [application.name for application in config.applications][:2] == [GATEWAY, STANDBY]
    assert {application.route_prefix for application in config.applications} == {None}
