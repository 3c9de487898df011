"""The shipped `cluster.yaml` as it is on a head: with the CPUs and GPUs that Ray asks AWS for."""

from typing import Any

import yaml

from common.cluster import PROJECT_ROOT

INSTANCES = {
    "m7i.xlarge": {"CPU": 4},
    "g4dn.xlarge": {"CPU": 4, "GPU": 1},
    "g5.xlarge": {"CPU": 4, "GPU": 1},
    "g6.xlarge": {"CPU": 4, "GPU": 1},
}
"""What AWS answers of the instance types that are named there."""


def shipped_cluster() -> dict[str, Any]:
    """The file's content."""
    document: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "cluster.yaml").read_text("utf-8"))
    return document


def bootstrap_config() -> dict[str, Any]:
    """What `ray up` leaves of it on the head: a type's own `resources` win over what the instance has."""
    config = shipped_cluster()
    for kind in config["available_node_types"].values():
        kind["resources"] = {**INSTANCES[kind["node_config"]["InstanceType"]], **kind["resources"]}
    return config
