"""What the machines of a cluster offer: those that run, this one, and those that an autoscaler may start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray._private import accelerators
from ray._private.utils import get_num_cpus

BOOTSTRAP_FILE = Path("~/ray_bootstrap_config.yaml")
"""What `ray up` leaves on a head for its autoscaler: the cluster's YAML file, with the CPUs and GPUs of each type."""


@dataclass(frozen=True)
class Node:
    """What one machine of a cluster offers."""

    num_cpus: float
    num_gpus: float


@dataclass(frozen=True)
class Resources:
    """What the machines of a cluster offer, taken or not."""

    nodes: tuple[Node, ...]

    @property
    def num_cpus(self) -> float:
        """CPUs of all machines together."""
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> float:
        """GPUs of all machines together."""
        return sum(node.num_gpus for node in self.nodes)


def this_machine() -> Resources:
    """What Ray would find on this machine: its CPUs, or those that a container's limits leave, and the visible GPUs."""
    manager = accelerators.get_accelerator_manager_for_resource("GPU")
    num_gpus = manager.get_current_node_num_accelerators() if manager else 0
    visible = manager.get_current_process_visible_accelerator_ids() if manager else None
    if visible is not None:  # CUDA_VISIBLE_DEVICES
        num_gpus = min(num_gpus, len(visible))
    return Resources((Node(float(get_num_cpus(override_docker_cpu_warning=True)), float(num_gpus)),))


def startable(workers: Sequence[Node], config: Mapping[str, Any]) -> list[Node]:
    """The machines that an autoscaler may still start.

    Args:
        workers: Those that run, without the head.
        config: Of the cluster, as in its YAML file. A type without `resources` counts as one without CPUs and GPUs.
    """
    most = int(config.get("max_workers", 0))
    unclaimed = list(workers)
    offers = []
    for name, kind in config.get("available_node_types", {}).items():
        if name == config.get("head_node_type"):
            continue
        offer = as_node(kind.get("resources") or {})
        for _ in range(int(kind.get("max_workers", most))):
            if offer in unclaimed:
                unclaimed.remove(offer)
            else:
                offers.append(offer)
    return offers[: max(most - len(workers), 0)]


def bootstrap_config() -> dict[str, Any]:
    """The cluster's configuration when this process runs on a head that `ray up` started, else nothing."""
    file = BOOTSTRAP_FILE.expanduser()
    return yaml.safe_load(file.read_text("utf-8")) or {} if file.is_file() else {}


def as_node(offer: Mapping[str, float]) -> Node:
    """A machine by what Ray says that it offers."""
    return Node(float(offer.get("CPU", 0.0)), float(offer.get("GPU", 0.0)))
