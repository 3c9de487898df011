"""Measures the gateway from outside: a middleware around the application, and a wrapper around what is behind it."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.model_settings import ModelSettings
from serve.auth import KEY_NAME, endpoint_in
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import GATEWAY, Backend, Deployment, Endpoint, Endpoints, EndpointSpec
from serve.event_log import EventLog
from serve.health import CanaryHealth
from serve.metrics import GatewayMetrics
from serve.routes import VERSION_HEADER
from serve.wakes import Wakes

CLIENT_LEFT = 499
"""Stands for the status of a request whose client went away before there was one; nginx began this."""


_VERSION_HEADER = VERSION_HEADER.lower().encode()


class MeasuredBackend:
    """`backend`, with every batch, wake and look at the deployments measured."""

    def __init__(self, backend: Backend, metrics: GatewayMetrics, log: EventLog) -> None:
        self._backend = backend
        self._metrics = metrics
        self._log = log
        self._wakes = Wakes()
        self._endpoints: Endpoints | None = None
        self._names: set[str] = set()

    def sample(self, endpoints: Endpoints) -> None:
        """Has each look at the deployments, one a second, also tell how many texts wait at `endpoints`."""
        self._endpoints = endpoints

    async def deployments(self) -> dict[str, Deployment]:
        """The endpoints that are deployed, by name."""
        found = await self._backend.deployments()
        for name, deployed in found.items():
            self._wakes.seen(name, deployed.num_running)
            endpoint = _endpoint(self._endpoints, name)
            waiting = endpoint.batcher.num_waiting if endpoint else 0
            self._metrics.state(name, replicas=deployed.num_running, waiting=waiting)
            self._metrics.canary(name, endpoint.canary.health() if endpoint and endpoint.canary else None)
        for name in self._names - found.keys():  # or the last figures would stay for good
            self._metrics.state(name, replicas=0, waiting=0)
            self._metrics.canary(name, None)
        self._names = set(found)
        return found

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        """The version that the alias points to. Raises what the backend raises."""
        return await self._backend.resolve(spec)

    async def candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        """The candidate, and how its canary ended if it has. Raises what the backend raises."""
        return await self._backend.candidate(name, spec)

    async def conclude(self, name: str, spec: EndpointSpec, outcome: CanaryHealth) -> bool:
        """Puts the end of a canary on record, and into the log. Raises what the backend raises."""
        if not await self._backend.conclude(name, spec, outcome):
            return False
        self._log.write(
            f"{outcome.mode}_{outcome.state.replace(' ', '_')}",
            endpoint=name,
            version=outcome.candidate.version,
            champion=outcome.champion.version,
            compared=outcome.compared,
            agreement=outcome.agreement,
            reason=outcome.reason,
        )
        return True

    async def release(self, name: str, served: ServedVersion) -> None:
        """Has the endpoint's replicas give the version's memory back."""
        await self._backend.release(name, served)

    async def settings(self, served: ServedVersion) -> ModelSettings:
        """What the version says of itself. Raises what the backend raises."""
        return await self._backend.settings(served)

    async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
        """The version's model card. Raises what the backend raises."""
        return await self._backend.card(spec, served)

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        """Has a replica classify one batch. Raises what the backend raises."""
        self._wakes.sent(name)
        try:
            answers = await self._backend.classify(name, served, texts)
        except BaseException as error:
            if (seconds := self._wakes.failed(name)) is not None:
                # Of the error its kind alone: its words are the replica's, and may quote a text.
                kind = type(error).__name__
                self._log.write("wake_failed", endpoint=name, version=served.version, seconds=seconds, error=kind)
            raise
        self._metrics.batch(name, served.version, len(texts))
        if (seconds := self._wakes.answered(name)) is not None:
            self._metrics.wake(name, seconds)
            self._log.write("woke", endpoint=name, version=served.version, seconds=seconds, texts=len(texts))
        return answers


class RequestTelemetry:
    """Counts and times every request, and logs those that failed. Plain ASGI, for what it costs."""

    def __init__(self, app: ASGIApp, *, endpoints: Endpoints, metrics: GatewayMetrics, log: EventLog) -> None:
        self._app = app
        self._endpoints = endpoints
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and watches the answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.perf_counter()
        status, version = CLIENT_LEFT, None

        async def watch(message: Message) -> None:
            nonlocal status, version
            if message["type"] == "http.response.start":
                status, version = message["status"], _version_in(message)
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:  # the application's outermost layer answers it, behind this one's back
            status = 500
            raise
        finally:
            self._ended(scope, status, version, time.perf_counter() - began_at)

    def _ended(self, scope: Scope, status: int, version: int | None, seconds: float) -> None:
        endpoint = _endpoint(self._endpoints, endpoint_in(scope))
        if version is None and endpoint and endpoint.served:
            version = endpoint.served.version
        name = endpoint.name if endpoint else GATEWAY
        self._metrics.request(name, version, status, seconds)
        if status >= 400:
            self._log.write(
                "request_failed",
                endpoint=name,
                version=version,
                status=status,
                seconds=seconds,
                route=getattr(scope.get("route"), "path", None),
                key=scope.get(KEY_NAME),
            )


def _version_in(message: Message) -> int | None:
    """The version that an answer says it is from: a canary's candidate, or one that the alias has left meanwhile."""
    for name, value in message["headers"]:
        if name == _VERSION_HEADER:
            return int(value)
    return None


def _endpoint(endpoints: Endpoints | None, name: str) -> Endpoint | None:
    if endpoints is None:
        return None
    try:
        return endpoints[name]
    except KeyError:
        return None
