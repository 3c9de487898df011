"""How Ray Serve is started and what its applications run with; the reasons for each option stand beside it."""

import logging
import socket
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import ray
import ray.exceptions
import ray.serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, ProxyLocation, RequestRouterConfig
from ray.serve.exceptions import RayServeException
from ray.serve.schema import LoggingConfig

from common.errors import ClusterError
from serve.backend import DEPLOYMENT, NUM_KEPT_BY_STANDBY
from serve.endpoints import GATEWAY, EndpointSpec
from serve.engine import Model, PooledModel
from serve.gateway_replica import GatewayReplica
from serve.gateway_server import Listener
from serve.pool import TARGET_ONGOING_BATCHES, PoolSpec

HEALTH_CHECK_PERIOD_S = 0.5
"""How often Serve looks whether a process is still there. A killed one is missed for as long; a look costs nothing."""

MAX_STANDBY_BATCHES = 100
"""Batches of all endpoints at once that wake; each endpoint has a few open."""

MAX_POOL_BATCHES = 200
"""Batches of all endpoints at once in a replica of the pool: those whose model is being loaded must not keep others
out, and whose turn is next is decided there."""

LOGGING = LoggingConfig(enable_access_log=False, log_level="WARNING")
"""Serve's log line for each request costs about as much as the rest of its hop."""

GATEWAY_DEPLOYMENT = "Gateway"
"""Name of the deployment in the gateway's Serve application."""

REPLICA_RESOURCE = "tuneserve_replica"
"""What machines for endpoints offer, a unit for each replica that they may hold; `cluster.yaml` has a type of them."""

_ON_HEAD: dict[str, Any] = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
_ANY_HOST = {"0.0.0.0", "::", ""}


def serve_details() -> dict[str, Any] | None:
    """What Serve runs, as its REST interface answers it; None when Serve does not run on this cluster."""
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return None
    return cast(dict[str, Any], ray.get(controller.get_serve_instance_details.remote()))


def gateway_url(details: dict[str, Any]) -> str:
    """Where the gateway listens, as this machine reaches it. Raises `ClusterError` when there is none."""
    deployment = details.get("applications", {}).get(GATEWAY, {}).get("deployments", {}).get(GATEWAY_DEPLOYMENT)
    if deployment is None:
        raise ClusterError("no gateway runs on this cluster; start one with `tuneserve up`")
    listener = Listener.from_user_config(deployment["deployment_config"]["user_config"])
    if listener.host not in _ANY_HOST:
        return listener.url
    nodes = ray.nodes()
    host = next(node["NodeManagerAddress"] for node in nodes if "node:__internal_head__" in node["Resources"])
    return replace(listener, host=host).url


def gateway_health(timeout_s: float = 5.0, *, look_first: bool = False) -> dict[str, dict[str, Any]] | None:
    """How the gateway's endpoints are, by name; None while it does not answer. With `look_first` it looks at once.

    It is asked through Ray, which knows this driver, and not over HTTP: that would take an API key, a certificate that
    this machine trusts, and a way to where the gateway listens.
    """

    def ask() -> Any:
        handle: Any = ray.serve.get_deployment_handle(GATEWAY_DEPLOYMENT, app_name=GATEWAY, _check_exists=False)
        return handle.health.remote(look_first=look_first).result(timeout_s=timeout_s)

    with quiet(), ThreadPoolExecutor(1) as thread:  # a notebook's own runs an asyncio loop, where Serve refuses to wait
        try:
            return {endpoint["name"]: endpoint for endpoint in thread.submit(ask).result()}
        except (TimeoutError, ray.exceptions.RayError, RayServeException):
            return None


def start() -> None:
    """Starts Serve without its proxies: the gateway listens by itself. Raises `ClusterError`."""
    with quiet():
        try:
            ray.serve.start(ProxyLocation.Disabled, logging_config=LOGGING)
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise ClusterError(f"Ray Serve does not start ({error}); see the log of its controller") from error


def check_port_is_free(host: str, port: int) -> None:
    """Raises `ClusterError` when something listens on the port: said here, before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that only lingers is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {host} is taken ({error.strerror}); stop what listens there or choose another port"
            ) from error


def run(application: ray.serve.Application, name: str) -> None:
    """Hands an application to Serve and does not wait, as `ray.serve.run` would without end for a replica's place."""
    with quiet():
        target = ray.serve.RunTarget(application, name=name, route_prefix=None)
        ray.serve.run_many([target], wait_for_applications_running=False)


def gateway_application(listener: Listener, code_uri: str | None) -> ray.serve.Application:
    """The gateway: one replica on the head node that reserves no CPU."""
    deployment = ray.serve.deployment(
        name=GATEWAY_DEPLOYMENT,
        num_replicas=1,
        user_config=listener.as_user_config(),
        ray_actor_options={**_ON_HEAD, "runtime_env": _runtime_env(code_uri)},
        logging_config=LOGGING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
    )
    return deployment(GatewayReplica).bind()


def standby_application(code_uri: str | None) -> ray.serve.Application:
    """One replica beside the gateway that is always there, for endpoints that have none yet."""
    deployment = ray.serve.deployment(
        name=DEPLOYMENT,
        num_replicas=1,
        max_ongoing_requests=MAX_STANDBY_BATCHES,
        ray_actor_options={**_ON_HEAD, "runtime_env": _runtime_env(code_uri)},
        logging_config=LOGGING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment(Model).bind(NUM_KEPT_BY_STANDBY)


def model_application(spec: EndpointSpec, *, on_serving_machines: bool = False) -> ray.serve.Application:
    """The deployment behind an endpoint: no replica until a batch waits, `max_replicas` at most.

    `on_serving_machines`: the cluster has machines for replicas, or its autoscaler can start some (`REPLICA_RESOURCE`).
    A replica then goes there and nowhere else: its machine counts as busy, and one comes when none is there.
    """
    deployment = ray.serve.deployment(
        name=DEPLOYMENT,
        user_config=spec.as_user_config(),
        autoscaling_config=_autoscaling(
            spec.min_replicas, spec.max_replicas, spec.target_ongoing_requests, spec.downscale_to_zero_delay_s
        ),
        # One batch in the forward pass and others ready: the replica never waits for the gateway.
        max_ongoing_requests=max(2, round(spec.target_ongoing_requests)),
        # No CPU reserved: a sweep holds all of a small cluster's, and the first request would wait for its end; nor
        # must an awake replica hold up a training. It forwards in one thread, and `max_replicas` bounds how many do.
        ray_actor_options={
            "num_cpus": 0,
            **_gpus(spec),
            # Machines for endpoints have no GPUs; one that asks for a GPU goes where that is.
            "resources": {REPLICA_RESOURCE: 1.0} if on_serving_machines and not spec.num_gpus else {},
            "runtime_env": _runtime_env(spec.code_uri),
        },
        logging_config=LOGGING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment(Model).bind(on_gpu=spec.num_gpus > 0)


def _gpus(spec: EndpointSpec) -> dict[str, float]:
    # Left out and not 0: Ray would take 0 for a wish to hide all GPUs, and warn.
    return {"num_gpus": spec.num_gpus} if spec.num_gpus else {}


def pool_application(spec: PoolSpec, *, on_serving_machines: bool = False) -> ray.serve.Application:
    """The shared pool: no replica until a batch waits, `max_replicas` at most, each with models of its own.

    What its replicas reserve, and where they go, is as for an endpoint's own.
    """
    router: Any = "serve.affinity:ModelAffinityRouter"
    deployment = ray.serve.deployment(
        name=DEPLOYMENT,
        user_config=spec.as_user_config(),
        autoscaling_config=_autoscaling(0, spec.max_replicas, TARGET_ONGOING_BATCHES, spec.downscale_to_zero_delay_s),
        max_ongoing_requests=MAX_POOL_BATCHES,
        request_router_config=RequestRouterConfig(request_router_class=router),
        ray_actor_options={
            "num_cpus": 0,
            "resources": {REPLICA_RESOURCE: 1.0} if on_serving_machines else {},
            "runtime_env": _runtime_env(spec.code_uri),
        },
        logging_config=LOGGING,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment(PooledModel).bind()


def _autoscaling(
    min_replicas: int, max_replicas: int, target_ongoing_requests: float, downscale_to_zero_delay_s: float
) -> AutoscalingConfig:
    # Reports come often enough for the delay that was asked for, and no oftener than scaling up can use.
    interval_s = min(2.0, max(0.5, downscale_to_zero_delay_s / 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the variables that are to replace it are read nowhere yet
        return AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            target_ongoing_requests=target_ongoing_requests,
            metrics_interval_s=interval_s,
            look_back_period_s=2 * interval_s,
            upscale_delay_s=4.0,
            downscale_delay_s=min(60.0, downscale_to_zero_delay_s),
            downscale_to_zero_delay_s=0.0,  # the policy has waited already
            policy=AutoscalingPolicy(
                policy_function="serve.autoscaling:IdlePolicy",
                policy_kwargs={"downscale_to_zero_delay_s": downscale_to_zero_delay_s},
            ),
        )


def _runtime_env(code_uri: str | None) -> dict[str, Any]:
    """Where a replica's code comes from, never from a job's upload: Ray drops that when the job has ended.

    Serve fills in the job's `working_dir` unless the key is there, whatever its value.
    """
    return {"working_dir": code_uri}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Serve's progress messages out of the terminal; its warnings stay."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
