"""What the gateway stands in front of: the deployments of Ray Serve, and the model registry."""

import asyncio
import contextvars
import logging
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

from common.errors import InputError, RegistryError, ServingError, TrackingError
from common.model_settings import ModelSettings
from common.ray_environment import home
from serve.alias_watch import AliasWatch, served_version
from serve.batching import Answer, ServedVersion, Text
from serve.canary_record import conclude, outcome_of
from serve.endpoints import Deployment, EndpointSpec
from serve.health import CanaryHealth
from serve.known_versions import KnownVersions
from serve.pool import POOL, Pool, PoolSpec
from serve.shared_specs import SharedSpecs

if TYPE_CHECKING:
    from common.registry import ModelRegistry

DEPLOYMENT = "Model"
"""Name of the deployment in an endpoint's Serve application, and in the standby's."""

STANDBY = "_standby"
"""Name of the standby's Serve application; no recipe can have it."""

NUM_KEPT_BY_STANDBY = 4
"""Models that the standby holds, of endpoints that wake; each goes on elsewhere."""

PAUSES_S = (0.0, 0.2, 1.0)
"""A batch is sent again when its replica dies under it, since classifying twice changes nothing: at once, and then
later, because what Ray knows of a process may lag behind its end. A batch that costs so many replicas is given up."""

NUM_ATTEMPTS = 1 + len(PAUSES_S)

LOOK_INTERVAL_S = 0.1
"""How often a call that is not answered yet looks whether there still is a replica to answer it."""

_LOST_REPLICA = (ray.exceptions.RayActorError, ray.serve.exceptions.ReplicaUnavailableError)
logger = logging.getLogger(__name__)

_STARTING_STATES = {"STARTING", "RECOVERING", "UPDATING", "PENDING_MIGRATION"}


def endpoints_in(details: Mapping[str, Any]) -> dict[str, Deployment]:
    """The endpoints among Serve's applications, by name; `details` is what Serve's REST interface also answers.

    Those of the shared pool are not: see `all_endpoints`.
    """
    found = {}
    for name, application in details.get("applications", {}).items():
        deployment = application["deployments"].get(DEPLOYMENT)
        spec = EndpointSpec.from_user_config(deployment["deployment_config"].get("user_config")) if deployment else None
        if spec is None or application["status"] == "DELETING":
            continue
        found[name] = Deployment(spec, *_replicas_in(deployment))
    return found


def pool_in(details: Mapping[str, Any]) -> Pool | None:
    """The shared pool among Serve's applications; None when there is none."""
    application = details.get("applications", {}).get(POOL)
    deployment = application["deployments"].get(DEPLOYMENT) if application else None
    if deployment is None or application["status"] == "DELETING":
        return None
    return Pool(PoolSpec.from_user_config(deployment["deployment_config"]["user_config"]), *_replicas_in(deployment))


def all_endpoints(details: Mapping[str, Any], shared: Mapping[str, EndpointSpec]) -> dict[str, Deployment]:
    """The endpoints by name, `shared` ones among them.

    One that is both is changing from one to the other, and the pool answers for it meanwhile.
    """
    pool = pool_in(details) or Pool(PoolSpec(), 0, 0)
    return endpoints_in(details) | {name: pool.deployment(spec) for name, spec in shared.items()}


def _replicas_in(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """How many replicas answer, and how many are on their way."""
    states = [replica["state"] for replica in deployment["replicas"]]
    num_starting = sum(state in _STARTING_STATES for state in states)
    # Serve has decided to start one before the replica itself shows.
    num_starting = num_starting or (deployment["target_num_replicas"] if "RUNNING" not in states else 0)
    return states.count("RUNNING"), num_starting


class ServeBackend:
    """Ray Serve and MLflow, as the gateway's replica sees them.

    Serve needs some three seconds for a replica, nearly all of them for its process. So while an endpoint has none, the
    standby answers for it: a replica that is always there and loads any model it is asked for.
    """

    def __init__(self) -> None:
        self._controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        self._handle = cache(_handle)
        self._handle(STANDBY)  # a handle is told of its replicas a moment after it was made
        self._known_versions = KnownVersions(home() / "known_versions")
        self._waking: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._specs = SharedSpecs()
        self._shared: frozenset[str] = frozenset()
        # MLflow's client blocks, for long when a server is away: it must not take the threads of others.
        self._registry_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="registry")
        self._registry = cache(_registry)
        self._aliases = AliasWatch(self._registry, self._registry_threads)
        self._card = lru_cache(maxsize=128)(self._read_card)
        self._settings = lru_cache(maxsize=128)(_settings)

    async def deployments(self) -> dict[str, Deployment]:
        """The endpoints that are deployed, by name."""
        # In this order: an endpoint that leaves the pool has its own application before it leaves.
        shared = await asyncio.get_running_loop().run_in_executor(None, self._specs.read)
        details = await self._controller.get_serve_instance_details.remote()
        self._shared = frozenset(shared)
        return all_endpoints(details, shared)

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        """The version that the alias points to, and its files. Raises what `common.registry` raises.

        At first that is what a gateway before this one knew a moment ago; the next look asks the registry.
        """
        if (known := self._known_versions.recall(spec)) is not None:
            return known
        served = await self._aliases.resolve(spec)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._registry_threads, self._known_versions.note, spec, served)
        return served

    async def candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        """The candidate of `spec.canary`, and how that ended if it has. Raises what `common.registry` raises."""
        return await asyncio.get_running_loop().run_in_executor(self._registry_threads, self._candidate, name, spec)

    def _candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        assert spec.canary is not None
        registry = self._registry(spec.tracking_uri)
        version = registry.by_version(spec.model, spec.canary.version)
        return served_version(registry, version, spec), outcome_of(version, name, spec.canary)

    async def conclude(self, name: str, spec: EndpointSpec, outcome: CanaryHealth) -> bool:
        """Moves the aliases as `outcome` says and puts it on record, as `serve.canary_record.conclude` does."""
        registry = self._registry(spec.tracking_uri)
        return await asyncio.get_running_loop().run_in_executor(
            self._registry_threads, conclude, registry, name, spec, outcome
        )

    async def release(self, name: str, served: ServedVersion) -> None:
        """Has the endpoint's replicas, and the standby, give the version's memory back; wakes none."""
        for application in (self._home(name), STANDBY):
            handle = self._handle(application)
            if _num_replicas(handle):
                response = handle.broadcast("release", served.uri, served.version)
                await response.results_async(return_exceptions=True)  # a replica that just left has given all back

    async def settings(self, served: ServedVersion) -> ModelSettings:
        """What the version says of itself; wakes nothing. Raises `ServingError`."""
        return await asyncio.get_running_loop().run_in_executor(self._registry_threads, self._settings, served)

    async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
        """The version's model card, None where it has none; wakes nothing. Raises `ServingError`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._registry_threads, self._card, spec.tracking_uri, spec.model, served.version
        )

    def _read_card(self, tracking_uri: str, model: str, version: int) -> str | None:
        registry = self._registry(tracking_uri)
        try:
            return registry.card(registry.by_version(model, version))
        except (RegistryError, TrackingError) as error:
            raise ServingError(f"the card of version {version} of {model!r} cannot be read: {error}") from error

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        """Has a replica classify one batch, waking one when none is there. Raises `ServingError`."""
        pauses_s = iter(PAUSES_S)
        while True:
            application = self._application(name, served)
            response: Any = self._bound_for(application, served).classify.remote(served.uri, served.version, texts)
            try:
                if (answers := await self._answers(response, name, application)) is not None:
                    return answers
            except (ray.exceptions.RayError, ray.serve.exceptions.RayServeException) as error:
                if not _is_loss(error):
                    raise _failure(name, error) from error
                if (pause_s := next(pauses_s, None)) is None:
                    raise ServingError(f"{NUM_ATTEMPTS} replicas of {name!r} were lost one after another") from error
                await asyncio.sleep(pause_s)

    async def _answers(self, response: Any, name: str, application: str) -> list[Answer] | None:
        """The answers; None, and the call is cancelled, when the standby should be asked.

        When an endpoint's last replica dies, Serve keeps its calls for the next one, which takes seconds to start.
        """
        outcome = asyncio.ensure_future(_outcome(response))
        try:
            while not (await asyncio.wait([outcome], timeout=LOOK_INTERVAL_S))[0]:
                is_kept = application != STANDBY and not _num_replicas(self._handle(application))
                if is_kept and self._stands_by(application, name):
                    return None
            return outcome.result()
        finally:
            if not outcome.done():
                outcome.cancel()
                response.cancel()

    def _application(self, name: str, served: ServedVersion) -> str:
        """Which application is to answer: the endpoint's own or the pool, or the standby while that has no replica."""
        own = self._home(name)
        is_waking = (own, name) in self._waking
        if (not is_waking and _num_replicas(self._handle(own))) or not self._stands_by(own, name):
            return own
        if not is_waking:
            # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
            task = asyncio.create_task(self._wake(own, name, served), context=contextvars.Context())
            self._waking[own, name] = task
            task.add_done_callback(lambda _: self._waking.pop((own, name)))
        return STANDBY

    def _home(self, name: str) -> str:
        """The application whose replicas are the endpoint's."""
        return POOL if name in self._shared else name

    def _stands_by(self, application: str, name: str) -> bool:
        """Whether the standby takes the endpoint's batches while `application` has no replica."""
        if not _num_replicas(self._handle(STANDBY)):
            return False
        # The pool's one wake serves all; the standby would drop models that are still asked for.
        num_waking = sum(waking == POOL for waking, _ in self._waking)
        return application != POOL or (POOL, name) in self._waking or num_waking < NUM_KEPT_BY_STANDBY

    def _bound_for(self, application: str, served: ServedVersion) -> DeploymentHandle[Any]:
        """The application's handle; the pool's is told the model, which decides the replica."""
        handle = self._handle(application)
        return handle.options(multiplexed_model_id=f"{served.uri}@{served.version}") if application == POOL else handle

    async def _wake(self, application: str, name: str, served: ServedVersion) -> None:
        """Has Serve start the application's first replica, and that load the model."""
        try:
            await self._bound_for(application, served).prepare.remote(served.uri, served.version)
            await self._handle(STANDBY).release.remote(served.uri, served.version)
        except Exception as error:  # whoever asks next tries again
            logger.warning("%s does not wake: %s", name, error)


async def _outcome(response: Any) -> list[Answer]:
    return cast(list[Answer], await response)


def _is_loss(error: Exception) -> bool:
    """Whether the replica went away, rather than failed. Ray wraps that when it meets it inside of another call."""
    return isinstance(error, _LOST_REPLICA) or isinstance(getattr(error, "cause", None), _LOST_REPLICA)


def _failure(name: str, error: Exception) -> ServingError:
    if isinstance(error, ray.exceptions.RayTaskError):
        return ServingError(f"{name!r} does not answer: {error.cause}")
    return ServingError(f"{name!r} cannot be reached: {error}; see `tuneserve status`")


def _handle(application: str) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = ray.serve.get_deployment_handle(
        DEPLOYMENT, app_name=application, _check_exists=False
    )
    handle._init()  # it is told of replicas from now on, and not only from its first call
    return handle


def _num_replicas(handle: DeploymentHandle[Any]) -> int:
    """Replicas that the handle can send to now; Serve has no public name for it."""
    router: Any = handle._router
    chooser = router._asyncio_router.request_router
    return len(chooser.curr_replicas) if chooser is not None else 0


def _settings(served: ServedVersion) -> ModelSettings:
    try:
        return ModelSettings.read(served.uri)
    except (OSError, InputError) as error:
        raise ServingError(f"version {served.version} at {served.uri} cannot be read: {error}") from error


def _registry(tracking_uri: str) -> "ModelRegistry":
    from common.registry import ModelRegistry  # here, because importing MLflow takes seconds and the gateway has none

    return ModelRegistry(tracking_uri)
