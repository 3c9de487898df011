"""What the gateway knows of its endpoints: which there are, how awake they are, and which version answers.

Serve itself is the store: an endpoint is a Serve application whose deployment carries an `EndpointSpec`. The registry
says which version an alias points to. Both are asked in the background and never by a request to classify, so an
unreachable registry or controller stops no answers: what was known last goes on.
"""

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol, Self

from pydantic import ValidationError

from common.errors import RegistryError, ServingError
from common.model_settings import ModelSettings
from common.recipe import AuthMode, PoolKind
from common.request_log_settings import RequestLog
from serve.batching import Answer, Batcher, ServedVersion, Text
from serve.canary import Canary
from serve.canary_settings import CanarySettings
from serve.health import CanaryHealth, EndpointHealth, State
from serve.leftover import Leftover

GATEWAY = "_gateway"
"""The gateway itself, where an endpoint is named: its Serve application is called so, and no recipe can be."""

LOOK_AT_DEPLOYMENTS_EVERY_S = 1.0
LOOK_AT_ALIASES_EVERY_S = 2.0

FRESH_FOR_S = 0.2
"""A health check after a look at the deployments that is older than this looks again."""

HEALTH_WAITS_S = 1.0
"""For how long a health check waits for that look; then it tells what was known."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndpointSpec:
    """What an endpoint was deployed with.

    Serve keeps it as the deployment's `user_config`, or `serve.shared_specs` where the pool answers.
    """

    model: str
    alias: str
    tracking_uri: str
    storage: str
    max_queued_requests: int
    target_ongoing_requests: float
    min_replicas: int
    max_replicas: int
    downscale_to_zero_delay_s: float
    code_uri: str | None = None
    auth: AuthMode = "auto"
    pool: PoolKind = "own"
    num_gpus: float = 0.0
    request_log: RequestLog | None = None
    canary: CanarySettings | None = None

    def as_user_config(self) -> dict[str, Any]:
        """A JSON object that `from_user_config` reads."""
        return {**asdict(self), "request_log": self.request_log and self.request_log.model_dump()}

    @classmethod
    def from_user_config(cls, user_config: Mapping[str, Any] | None) -> Self | None:
        """The specification in a deployment's `user_config`; None when the deployment is not one of ours."""
        try:
            spec = cls(**(user_config or {}))
            given = asdict(spec)
            log = given["request_log"]
            return replace(
                spec,
                canary=CanarySettings.from_json(given["canary"]),
                request_log=None if log is None else RequestLog.model_validate(log),
            )
        except (TypeError, ValidationError):
            return None


@dataclass(frozen=True)
class Deployment:
    """An endpoint as Serve has it; one of the shared pool has the pool's replicas."""

    spec: EndpointSpec
    num_running: int
    """Replicas that answer."""
    num_starting: int
    """Replicas on their way."""

    @property
    def state(self) -> State:
        """How awake the deployment is, requests that wait in the gateway apart."""
        return "awake" if self.num_running else "waking" if self.num_starting else "asleep"


class Backend(Protocol):
    """What the gateway stands in front of: Ray Serve and the model registry, or a fake in tests."""

    async def deployments(self) -> dict[str, Deployment]:
        """The endpoints that are deployed, by name."""

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        """The version that the alias points to. Raises an error that says why it cannot be told."""

    async def settings(self, served: ServedVersion) -> ModelSettings:
        """What the version says of itself; wakes nothing. Raises `ServingError`."""

    async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
        """The version's model card, None where it has none; wakes nothing. Raises `ServingError`."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        """Has a replica classify one batch, waking one when none is there. Raises `ServingError`."""

    async def candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        """The candidate of `spec.canary`, and how that ended if it has. Raises an error that says why not."""

    async def conclude(self, name: str, spec: EndpointSpec, outcome: CanaryHealth) -> bool:
        """Moves the aliases as `outcome` says and puts it on record; False when the champion is another one by now.

        Raises an error that says why not.
        """

    async def release(self, name: str, served: ServedVersion) -> None:
        """Has the endpoint's replicas give the version's memory back; wakes none."""


class Endpoint:
    """One endpoint in the gateway."""

    def __init__(self, name: str, deployed: Deployment, backend: Backend) -> None:
        self.name = name
        self.deployed = deployed
        self.served: ServedVersion | None = None
        self.problem: str | None = None
        self._asked = asyncio.Event()
        self._asking = False
        self._backend = backend
        self.batcher = Batcher(partial(backend.classify, name), **_batching(deployed.spec))
        self.leftover = Leftover(partial(backend.classify, name), self.batcher)
        self.canary = self._canary(deployed.spec)

    @property
    def spec(self) -> EndpointSpec:
        """What it was deployed with."""
        return self.deployed.spec

    def health(self) -> EndpointHealth:
        """How it is."""
        state = self.deployed.state
        is_asked = self.batcher.num_waiting or self.leftover.num_waiting
        return EndpointHealth(
            name=self.name,
            # Known here before Serve has started anything.
            state="waking" if state == "asleep" and is_asked else state,
            replicas=self.deployed.num_running,
            model=self.spec.model,
            version=self.served.version if self.served else None,
            problem=self.problem,
            pool=self.spec.pool,
            canary=self.canary.health() if self.canary else None,
        )

    def update(self, deployed: Deployment) -> None:
        """Takes over what Serve says now."""
        if deployed.spec != self.spec:
            for name, value in _batching(deployed.spec).items():
                setattr(self.batcher, name, value)
        if deployed.spec.canary != self.spec.canary:
            self.canary = self._canary(deployed.spec)
        self.deployed = deployed
        self.batcher.num_replicas = deployed.num_running

    async def follow_alias(self) -> None:
        """Asks the registry once; keeps what it knew when that fails. Only one question is open at a time."""
        if self._asking:
            return
        self._asking = True
        try:
            self.served = await self._backend.resolve(self.spec)
            self.problem = None
            if self.canary is not None:
                await self.canary.follow(self.served)
        except Exception as error:  # whatever a tracking server or an object store can raise
            problem = str(error) or type(error).__name__
            if problem != self.problem:  # once, and not every two seconds for each of hundreds
                logger.warning("%s keeps version %s: %s", self.name, self.served and self.served.version, problem)
            self.problem = problem
        finally:
            self._asking = False
            self._asked.set()

    async def classify(self, texts: list[Text], request_id: str) -> tuple[list[Answer], int]:
        """An answer for each text, and the version that gave them all; a canary draws it by the request's id.

        Raises `RegistryError` when no version is known, `ServingError`, and `QueueFullError`.
        """
        served = await self.known_version()
        if self.canary is not None:
            return await self.canary.classify(served, texts, request_id, is_awake=self.deployed.num_running > 0)
        return await self.batcher.classify(served, texts), served.version

    async def settings(self) -> tuple[ModelSettings, int]:
        """What the version that answers says of itself, and its number. Raises `RegistryError` and `ServingError`."""
        served = await self.known_version()
        return await self._backend.settings(served), served.version

    async def card(self) -> tuple[tuple[ModelSettings, str | None], int]:
        """The same with the model's card, if it has one. Raises `RegistryError` and `ServingError`."""
        served = await self.known_version()
        settings = await self._backend.settings(served)
        return (settings, await self._backend.card(self.spec, served)), served.version

    async def known_version(self) -> ServedVersion:
        """The version that answers, once the registry has been asked. Raises `RegistryError` when none is known."""
        await self._asked.wait()
        if self.served is None:
            raise RegistryError(f"{self.name!r} has no model to answer with yet: {self.problem}")
        return self.served

    def _canary(self, spec: EndpointSpec) -> Canary | None:
        return Canary(self.name, spec, spec.canary, self.batcher, self._backend) if spec.canary else None


def _batching(spec: EndpointSpec) -> dict[str, Any]:
    return {
        "max_waiting": spec.max_queued_requests,
        "batches_per_replica": spec.target_ongoing_requests,
        "max_replicas": spec.max_replicas,
    }


class Endpoints:
    """All endpoints of a gateway, kept up to date by `follow`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._by_name: dict[str, Endpoint] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._look: asyncio.Task[None] | None = None
        self._looked_at = -math.inf

    def __getitem__(self, name: str) -> Endpoint:
        return self._by_name[name]

    def names(self) -> list[str]:
        """The names, sorted."""
        return sorted(self._by_name)

    def health(self) -> list[EndpointHealth]:
        """How each of them is, by name."""
        return [self._by_name[name].health() for name in self.names()]

    async def look_at_deployments(self) -> None:
        """Takes over what Serve has; asks the registry about endpoints that are new or follow another model.

        One look is open at a time: who asks meanwhile gets its outcome, and who leaves does not end it for others.
        """
        if self._look is None or self._look.done():
            # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request.
            self._look = asyncio.create_task(self._look_at_deployments(), context=contextvars.Context())
        await asyncio.shield(self._look)

    async def look_again(self) -> None:
        """Looks at the deployments unless that was done just now; a failure keeps what was known."""
        if asyncio.get_running_loop().time() - self._looked_at < FRESH_FOR_S:
            return
        with suppress(Exception):  # `follow` meets the same one within a second, and logs it
            async with asyncio.timeout(HEALTH_WAITS_S):
                await self.look_at_deployments()

    async def _look_at_deployments(self) -> None:
        began_at = asyncio.get_running_loop().time()
        deployments = await self._backend.deployments()
        self._looked_at = began_at
        for name in self._by_name.keys() - deployments.keys():
            self._by_name.pop(name).batcher.close(ServingError(f"endpoint {name!r} was removed"))
        for name, deployed in deployments.items():
            known = self._by_name.get(name)
            if known is None or _registry_entry(known.spec) != _registry_entry(deployed.spec):
                self._by_name[name] = Endpoint(name, deployed, self._backend)
                self._ask(self._by_name[name])
            self._by_name[name].update(deployed)

    async def look_at_aliases(self) -> None:
        """Starts asking the registry about every endpoint; a slow answer for one delays no other."""
        for endpoint in self._by_name.values():
            self._ask(endpoint)

    async def follow(self) -> None:
        """Keeps up to date until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_repeat(self.look_at_deployments, LOOK_AT_DEPLOYMENTS_EVERY_S))
            tasks.create_task(_repeat(self.look_at_aliases, LOOK_AT_ALIASES_EVERY_S))

    def _ask(self, endpoint: Endpoint) -> None:
        task = asyncio.create_task(endpoint.follow_alias())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)


def _registry_entry(spec: EndpointSpec) -> tuple[str, ...]:
    return (spec.tracking_uri, spec.model, spec.alias, spec.storage)


async def _repeat(look: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await look()
        except Exception as error:  # the controller restarts; what was known last goes on
            logger.warning("the gateway could not look at its endpoints: %s", error)
        await asyncio.sleep(every_s)
