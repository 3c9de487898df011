"""Killing a part of a running endpoint, and waiting until Serve has put another in its place.

Ray must be initialised, and the cluster be this machine: parts are killed by their process id, as the kernel does when
memory is short. They get no chance to say anything.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from common.errors import ServingError
from serve.backend import DEPLOYMENT, STANDBY
from serve.endpoints import GATEWAY
from serve.ray_serve import GATEWAY_DEPLOYMENT, serve_details

Part = Literal["replica", "standby", "gateway", "controller"]
PARTS: tuple[Part, ...] = ("replica", "standby", "gateway", "controller")

LOOK_INTERVAL_S = 0.05


def pids(part: Part, endpoint: str) -> list[int]:
    """The processes that are that part of `endpoint` and are ready; none while they start."""
    if part == "controller":
        controller: Any = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        return [int(ray.get(controller.get_pid.remote()))]
    application, deployment = _place(part, endpoint)
    return running_pids(serve_details() or {}, application, deployment)


def running_pids(details: Mapping[str, Any], application: str, deployment: str) -> list[int]:
    """Of the replicas that Serve says are running; `details` is what Serve's REST interface also answers."""
    deployments = details.get("applications", {}).get(application, {}).get("deployments", {})
    replicas = deployments.get(deployment, {}).get("replicas", [])
    return [replica["pid"] for replica in replicas if replica["state"] == "RUNNING" and replica["pid"]]


def kill(part: Part, endpoint: str) -> int:
    """Ends one process of that part with SIGKILL and returns its id. Raises `ServingError` when there is none."""
    found = pids(part, endpoint)
    if not found:
        raise ServingError(f"endpoint {endpoint!r} has no {part} that runs, so none can be killed; see its health")
    os.kill(found[0], signal.SIGKILL)
    return found[0]


def wait_until_replaced(part: Part, endpoint: str, killed: int, timeout_s: float) -> None:
    """Returns when another process is that part and Serve finds all applications running. Raises `ServingError`."""

    def is_replaced() -> bool:
        found = pids(part, endpoint)
        return bool(found) and killed not in found and all_run(serve_details() or {})

    wait_until(is_replaced, timeout_s, f"Serve has not replaced the {part} of {endpoint!r} (process {killed})")


def all_run(details: Mapping[str, Any]) -> bool:
    """Whether Serve finds every application running."""
    applications = details.get("applications", {})
    return bool(applications) and all(found["status"] == "RUNNING" for found in applications.values())


def wait_until(holds: Callable[[], bool], timeout_s: float, problem: str) -> None:
    """Looks again and again. Raises `ServingError` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise ServingError(f"{problem} within {timeout_s:g} s")
        time.sleep(LOOK_INTERVAL_S)


def _place(part: Part, endpoint: str) -> tuple[str, str]:
    """The Serve application and deployment."""
    if part == "gateway":
        return GATEWAY, GATEWAY_DEPLOYMENT
    return (STANDBY if part == "standby" else endpoint), DEPLOYMENT
