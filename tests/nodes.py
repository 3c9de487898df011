"""Nodes beside the head of the tests' cluster: raylets on this machine, each with a cache folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray

from common.cluster import read_record
from common.ray_environment import own_cluster_environment
from common.ray_head import CLUSTER_ID_VARIABLE
from tests.warm_command import ROOT

LEAVE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class AddedNode:
    """A node that runs, or was killed."""

    node_id: str
    cache: Path
    """Its `TUNESERVE_CACHE`."""
    process: "subprocess.Popen[str]"
    """The root of its processes."""

    def kill(self) -> None:
        """Ends all its processes as a power cut would: nobody is told. Their connections close, though."""
        kill_tree(self.process.pid)


@contextmanager
def added_nodes(
    folder: Path, num_nodes: int, *, num_cpus: int, resources: Mapping[str, float] | None = None
) -> Iterator[list[AddedNode]]:
    """Adds nodes to the cluster that is up; their caches are in `folder`. At the end all of them have left it."""
    record = read_record()
    assert record is not None
    command = [sys.executable, "-P", str(ROOT / "tests" / "raylet.py"), record.address, str(num_cpus)]
    command.append(json.dumps(resources or {}))
    inherited = {**os.environ, **own_cluster_environment(), CLUSTER_ID_VARIABLE: record.cluster_id}
    inherited["PYTHONPATH"] = str(ROOT)
    with ExitStack() as stack:
        nodes = []
        for number in range(1, num_nodes + 1):  # one after another, or Ray gives two the same name of a socket
            cache = folder / f"cache-{number}"
            process = stack.enter_context(_running(command, {**inherited, "TUNESERVE_CACHE": str(cache)}))
            assert process.stdout is not None
            nodes.append(AddedNode(process.stdout.readline().strip(), cache, process))
        added = {node.node_id for node in nodes}
        wait_for(lambda: added <= alive_nodes())
        yield nodes
    wait_for(lambda: not added & alive_nodes())


@contextmanager
def _running(command: list[str], environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            workers = _tree(process.pid)  # which lose their parent when the node leaves
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_TIMEOUT_S)
            _kill(workers)


def alive_nodes() -> set[str]:
    """Ids of the nodes that the cluster does not know to be dead."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def kill_tree(pid: int) -> None:
    """Kills a process and all below it, if it is there."""
    _kill(_tree(pid))


def _tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def wait_for(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Fails when it does not hold in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
