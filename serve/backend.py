"""What the gateway stands in front of: the deployments of Ray Serve, and the model registry."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

import ray
import ray.exceptions
import ray.serve
import ray.serve.exceptions
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.handle import DeploymentHandle

from common.errors import InputError, ServingError
from common.model_settings import ModelSettings
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment, EndpointSpec

if TYPE_CHECKING:
    from common.registry import ModelRegistry

DEPLOYMENT = "Model"
"""Name of the deployment in an endpoint's Serve application."""

NUM_ATTEMPTS = 3
"""A batch is sent again when its replica dies under it: classifying twice changes nothing."""

_LOST_REPLICA = (ray.exceptions.RayActorError, ray.serve.exceptions.ReplicaUnavailableError)
_STARTING_STATES = {"STARTING", "RECOVERING", "UPDATING", "PENDING_MIGRATION"}


def endpoints_in(details: Mapping[str, Any]) -> dict[str, Deployment]:
    """The endpoints among Serve's applications, by name; `details` is what Serve's REST interface also answers."""
    found = {}
    for name, application in details.get("applications", {}).items():
        deployment = application["deployments"].get(DEPLOYMENT)
        spec = EndpointSpec.from_user_config(deployment["deployment_config"].get("user_config")) if deployment else None
        if spec is None or application["status"] == "DELETING":
            continue
        states = [replica["state"] for replica in deployment["replicas"]]
        num_starting = sum(state in _STARTING_STATES for state in states)
        # Serve has decided to start one before the replica itself shows.
        num_starting = num_starting or (deployment["target_num_replicas"] if "RUNNING" not in states else 0)
        found[name] = Deployment(spec, states.count("RUNNING"), num_starting)
    return found


class ServeBackend:
    """Ray Serve and MLflow, as the gateway's replica sees them."""

    def __init__(self) -> None:
        self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        self._handle = cache(_handle)
        self._registry = cache(_registry)
        # MLflow's client blocks, for long when a server is away: it must not take the threads of others.
        self._registry_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="registry")
        self._settings = lru_cache(maxsize=128)(_settings)

    async def deployments(self) -> dict[str, Deployment]:
        """The endpoints that are deployed, by name."""
        return endpoints_in(await self._controller.get_serve_instance_details.remote())

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        """The version that the alias points to, and its files. Raises what `common.registry` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._registry_threads, self._resolve, spec)

    def _resolve(self, spec: EndpointSpec) -> ServedVersion:
        registry = self._registry(spec.tracking_uri)
        version = registry.by_alias(spec.model, spec.alias)
        return ServedVersion(version.version, registry.fetchable_uri(version, spec.storage))

    async def settings(self, served: ServedVersion) -> ModelSettings:
        """What the version says of itself; wakes nothing. Raises `ServingError`."""
        return await asyncio.get_running_loop().run_in_executor(self._registry_threads, self._settings, served)

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        """Has a replica classify one batch, waking one when none is there. Raises `ServingError`."""
        for attempt in range(1, NUM_ATTEMPTS + 1):
            response = self._handle(name).classify.remote(served.uri, served.version, texts)
            try:
                return cast(list[Answer], await response)
            except asyncio.CancelledError:
                response.cancel()  # type: ignore[no-untyped-call]
                raise
            except _LOST_REPLICA as error:
                if attempt == NUM_ATTEMPTS:
                    raise ServingError(f"{NUM_ATTEMPTS} replicas of {name!r} were lost one after another") from error
            except ray.exceptions.RayTaskError as error:
                raise ServingError(str(error.cause)) from error
            except ray.serve.exceptions.RayServeException as error:
                raise ServingError(f"{name!r} cannot be reached: {error}; see `tuneserve status`") from error
        raise AssertionError("unreachable")


def _handle(name: str) -> DeploymentHandle[Any]:
    return ray.serve.get_deployment_handle(DEPLOYMENT, app_name=name, _check_exists=False)


def _settings(served: ServedVersion) -> ModelSettings:
    try:
        return ModelSettings.read(served.uri)
    except (OSError, InputError) as error:
        raise ServingError(f"version {served.version} at {served.uri} cannot be read: {error}") from error


def _registry(tracking_uri: str) -> "ModelRegistry":
    from common.registry import ModelRegistry  # here, because importing MLflow takes seconds and the gateway has none

    return ModelRegistry(tracking_uri)
