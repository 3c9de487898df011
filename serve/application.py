"""Starting the gateway, and deploying, listing and removing endpoints, as Ray Serve applications.

Ray must be initialised. Nothing here wakes a replica: a deployment with `min_replicas: 0` starts at none.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import ray.serve

from common.cluster import offers, resources
from common.errors import InputError, ServingError
from common.recipe import PoolKind, Recipe
from common.registry import ModelRegistry
from serve import shared_specs
from serve.backend import STANDBY, all_endpoints, endpoints_in, pool_in
from serve.canary_settings import CanarySettings
from serve.endpoints import GATEWAY, Deployment, EndpointSpec
from serve.gateway_server import Listener, Tls
from serve.health import State
from serve.placement import check_gpus
from serve.pool import POOL, Pool, PoolSpec
from serve.ray_serve import (
    REPLICA_RESOURCE,
    check_port_is_free,
    gateway_application,
    gateway_health,
    gateway_url,
    model_application,
    pool_application,
    quiet,
    run,
    serve_details,
    standby_application,
    start,
)

START_TIMEOUT_S = 90.0
FOLLOW_TIMEOUT_S = 30.0
POLL_EVERY_S = 0.03
"""Often: waiting is most of what the deployment of an endpoint on the shared pool takes."""


@dataclass(frozen=True)
class Deployed:
    """An endpoint that the gateway answers for."""

    url: str
    model: str
    version: int
    ended_canary: int | None = None
    """The candidate whose canary or shadow this deployment ended."""


@dataclass(frozen=True)
class EndpointState:
    """An endpoint as `tuneserve status` shows it; `version` is None while the gateway does not know it."""

    name: str
    url: str
    model: str
    alias: str
    tracking_uri: str
    version: int | None
    replicas: int
    state: State
    pool: PoolKind
    canary: dict[str, Any] | None = None
    """`serve.health.CanaryHealth` of the candidate, if there is or was one."""


def start_gateway(host: str, port: int, *, tls: Tls | None = None, code_uri: str | None = None) -> str:
    """Starts Serve and the gateway on the head node and returns the gateway's URL; the running one's if there is one.

    `code_uri` is an archive with this code, for clusters that do not have it installed. Raises `ClusterError` when the
    port is taken by something else or `tls` is no certificate, before anything is started, and `ServingError` when the
    gateway does not come up.
    """
    details = serve_details()
    applications = details["applications"] if details else {}
    if GATEWAY not in applications:
        check_port_is_free(host, port)
        if tls:
            tls.check()
    if details is None:
        start()
    if applications.get(GATEWAY, {}).get("status") != "RUNNING":
        run(gateway_application(Listener(host, port, tls), code_uri), GATEWAY)
        run(standby_application(code_uri), STANDBY)
        _wait_until_running(GATEWAY)
        _wait_until_running(STANDBY)
    url = _gateway_url()
    _wait_until(lambda: _answers(url), START_TIMEOUT_S, f"the gateway at {url} does not answer")
    return url


def deploy_endpoint(
    recipe: Recipe, *, tracking_uri: str, storage: str, code_uri: str | None, canary: CanarySettings | None = None
) -> Deployed:
    """Deploys `recipe.name`, with `canary` a candidate beside it, and waits until the gateway answers; wakes nothing.

    `code_uri` is an archive with this code that replicas run from; None where the nodes have it installed. An endpoint
    that is deployed like this already is left alone; a canary that runs and is not asked for again ends.

    Raises `RegistryError` when no version carries the alias, `ClusterError` when there is no gateway or no GPU for it,
    `InputError` for a canary beside no endpoint, and `ServingError` when the endpoint does not come up.
    """
    champion = ModelRegistry(tracking_uri).by_alias(recipe.registered_model, recipe.registry.alias)
    details = serve_details() or {}
    url = f"{gateway_url(details)}/{recipe.name}"
    if recipe.serve.num_gpus:
        check_gpus(recipe.serve, resources())
    running = all_endpoints(details, shared_specs.shared_specs()).get(recipe.name)
    if running is None and canary is not None:
        raise InputError(
            f"there is no endpoint {recipe.name!r} for a candidate to stand beside; deploy the champion first: "
            "tuneserve deploy RECIPE"
        )
    before = running.spec.canary if running else None
    runs = before is not None and _canary_runs(_health(recipe.name))
    if before is not None and (before.is_like(canary) if runs else canary is None):
        canary = before  # it goes on, or still tells how it ended
    spec = endpoint_spec(recipe, tracking_uri, storage, code_uri, canary)
    (_deploy_shared if spec.pool == "shared" else _deploy_own)(recipe.name, spec, details)
    if canary is None or (canary is before and not runs):  # or a candidate may win, and the alias move, at any time
        follow_alias(recipe.name, champion.version, FOLLOW_TIMEOUT_S)
    _follow_canary(recipe.name, canary)
    ended = before.version if before is not None and runs and before != canary else None
    return Deployed(url, champion.name, champion.version, ended)


def endpoint_spec(
    recipe: Recipe, tracking_uri: str, storage: str, code_uri: str | None, canary: CanarySettings | None = None
) -> EndpointSpec:
    """What a recipe says of its endpoint."""
    return EndpointSpec(
        model=recipe.registered_model,
        alias=recipe.registry.alias,
        tracking_uri=tracking_uri,
        storage=storage,
        max_queued_requests=recipe.serve.max_queued_requests,
        target_ongoing_requests=recipe.serve.target_ongoing_requests,
        min_replicas=recipe.serve.min_replicas,
        max_replicas=recipe.serve.max_replicas,
        downscale_to_zero_delay_s=recipe.serve.downscale_to_zero_delay_s,
        code_uri=code_uri,
        auth=recipe.serve.auth,
        pool=recipe.serve.pool,
        num_gpus=recipe.serve.num_gpus,
        request_log=recipe.serve.request_log,
        canary=canary,
    )


def _canary_runs(health: dict[str, Any] | None) -> bool:
    """Whether a candidate is tried, by what the gateway tells of an endpoint."""
    found = (health or {}).get("canary")
    return found is not None and found["state"] == "running"


def _follow_canary(name: str, canary: CanarySettings | None) -> None:
    """Waits until the gateway draws by these settings."""

    def follows() -> bool:
        found = (_health(name) or {}).get("canary")
        return (found and found["started_at"]) == (canary and canary.started_at)

    _wait_until(follows, FOLLOW_TIMEOUT_S, f"the gateway does not take over the canary of {name!r}")


def _deploy_own(name: str, spec: EndpointSpec, details: dict[str, Any]) -> None:
    running = endpoints_in(details).get(name)
    if running is None or running.spec != spec:
        run(model_application(spec, on_serving_machines=offers(REPLICA_RESOURCE)), name)
        _wait_until_running(name)
    if name in shared_specs.shared_specs():  # only now: the pool has answered until here
        shared_specs.remove(name)
    _wait_until_answered_by(name, "own")


def _deploy_shared(name: str, spec: EndpointSpec, details: dict[str, Any]) -> None:
    if pool_in(details) is None:
        set_pool(PoolSpec(code_uri=spec.code_uri))
    if shared_specs.shared_specs().get(name) != spec:
        shared_specs.put(name, spec)
    _wait_until_answered_by(name, "shared")
    if name in endpoints_in(details):  # only now: its own replicas have answered until here
        with quiet():
            ray.serve.delete(name)


def pool() -> Pool | None:
    """The shared pool of this cluster; None when there is none."""
    return pool_in(serve_details() or {})


def set_pool(spec: PoolSpec) -> None:
    """Starts the shared pool, or bounds the running one anew; wakes nothing. Raises `ServingError`."""
    run(pool_application(spec, on_serving_machines=offers(REPLICA_RESOURCE)), POOL)
    _wait_until_running(POOL)


def follow_alias(name: str, version: int, timeout_s: float = FOLLOW_TIMEOUT_S) -> None:
    """Waits until the gateway answers for `name` with `version`. Raises `ServingError` after `timeout_s`."""

    def follows() -> bool:
        health = _health(name)
        return health is not None and health["version"] == version

    problem = (_health(name) or {}).get("problem") or "see `tuneserve status`"
    _wait_until(follows, timeout_s, f"endpoint {name!r} does not follow to version {version} ({problem})")


def _wait_until_answered_by(name: str, pool: PoolKind) -> None:
    """Waits until the gateway sends an endpoint's batches to those replicas. Raises `ServingError`."""

    def is_known() -> bool:
        return (gateway_health(look_first=True) or {}).get(name, {}).get("pool") == pool

    problem = f"the gateway does not take over that {name!r} has pool: {pool}; see `tuneserve status`. It had not"
    _wait_until(is_known, FOLLOW_TIMEOUT_S, problem)


def endpoints() -> list[EndpointState]:
    """The endpoints of this cluster by name; empty when Serve does not run. Asking wakes nothing."""
    deployed = _deployed()
    if not deployed:
        return []
    url = _gateway_url()
    known = gateway_health() or {}
    return [
        EndpointState(
            name=name,
            url=f"{url}/{name}",
            model=found.spec.model,
            alias=found.spec.alias,
            tracking_uri=found.spec.tracking_uri,
            version=known.get(name, {}).get("version"),
            replicas=found.num_running,
            state=known.get(name, {}).get("state", found.state),
            pool=found.spec.pool,
            canary=known.get(name, {}).get("canary"),
        )
        for name, found in sorted(deployed.items())
    ]


def remove_endpoint(name: str) -> None:
    """Removes the endpoint and waits until the gateway no longer knows it. Raises `ServingError` when there is none."""
    deployed = _deployed()
    if name not in deployed:
        raise ServingError(f"there is no endpoint {name!r}; there are: {', '.join(sorted(deployed)) or 'none'}")
    shared_specs.remove(name)
    if name in endpoints_in(serve_details() or {}):
        with quiet():
            ray.serve.delete(name)
    _wait_until(lambda: _health(name) is None, FOLLOW_TIMEOUT_S, f"the gateway still answers for {name!r}")


def _gateway_url() -> str:
    return gateway_url(serve_details() or {})


def _deployed() -> dict[str, Deployment]:
    details = serve_details()
    return all_endpoints(details, shared_specs.shared_specs()) if details else {}


def _health(name: str) -> dict[str, Any] | None:
    return (gateway_health() or {}).get(name)


def _answers(url: str) -> bool:
    """Whether the gateway answers over HTTP. A certificate need not name the address that this machine takes."""
    try:
        return httpx.get(f"{url}/healthz", timeout=5.0, trust_env=False, verify=False).is_success
    except httpx.TransportError:
        return False


def _wait_until_running(name: str) -> None:
    def is_running() -> bool:
        application = (serve_details() or {"applications": {}})["applications"].get(name)
        if application is not None and application["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServingError(f"Serve cannot run {name!r}: {application['message']}")
        return application is not None and application["status"] == "RUNNING"

    problem = f"Serve does not get {name!r} to run; see Serve's page in Ray's dashboard. It was not running"
    _wait_until(is_running, START_TIMEOUT_S, problem)


def _wait_until(holds: Callable[[], bool], timeout_s: float, problem: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise ServingError(f"{problem} within {timeout_s:g} s")
        time.sleep(POLL_EVERY_S)
