"""The gateway's application over a backend without Ray Serve and without a registry."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from common.model_settings import ModelSettings
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment, EndpointSpec
from serve.gateway import create_app
from serve.health import CanaryHealth

SPEC = EndpointSpec(
    model="headlines",
    alias="champion",
    tracking_uri="sqlite:///mlflow.db",
    storage="/storage",
    max_queued_requests=8,
    target_ongoing_requests=2.0,
    min_replicas=0,
    max_replicas=2,
    downscale_to_zero_delay_s=300.0,
)
GOOD: Answer = {"label": "good", "score": 0.75, "scores": {"bad": 0.25, "good": 0.75}}
REPLICAS_ANSWER: Answer = {**GOOD, "logits": (-1.0, 0.5), "truncated": False}


@dataclass
class FakeBackend:
    """Serve and the registry, without either."""

    deployed: dict[str, Deployment] = field(default_factory=lambda: {"news": Deployment(SPEC, 0, 0)})
    version: int = 1
    model_card: str | None = None
    registry_error: Exception | None = None
    replica_error: Exception | None = None
    batches: list[tuple[str, int, list[Text]]] = field(default_factory=list)
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    num_looks: int = 0
    look_error: Exception | None = None
    may_look: asyncio.Event = field(default_factory=asyncio.Event)
    errors_of: dict[int, Exception] = field(default_factory=dict)
    """What a version answers with instead."""
    answers_of: dict[int, Answer] = field(default_factory=dict)
    conclusions: list[tuple[str, CanaryHealth]] = field(default_factory=list)
    """How canaries ended, as the registry keeps it."""
    conclude_error: Exception | None = None
    released: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.is_open.set()
        self.may_look.set()

    async def deployments(self) -> dict[str, Deployment]:
        self.num_looks += 1
        await self.may_look.wait()
        if self.look_error:
            raise self.look_error
        return self.deployed

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        if self.registry_error:
            raise self.registry_error
        return ServedVersion(self.version, f"/storage/{spec.model}/{self.version}/onnx")

    async def candidate(self, name: str, spec: EndpointSpec) -> tuple[ServedVersion, CanaryHealth | None]:
        if self.registry_error:
            raise self.registry_error
        assert spec.canary is not None
        served = ServedVersion(spec.canary.version, f"/storage/{spec.model}/{spec.canary.version}/onnx")
        ended = [found for _, found in self.conclusions if found.started_at == spec.canary.started_at]
        return served, ended[-1] if ended else None

    async def conclude(self, name: str, spec: EndpointSpec, outcome: CanaryHealth) -> bool:
        if self.conclude_error:
            raise self.conclude_error
        assert spec.canary is not None
        self.conclusions.append((name, outcome))
        if outcome.state == "finished" and spec.canary.mode == "canary":
            self.version = spec.canary.version
        return True

    async def release(self, name: str, served: ServedVersion) -> None:
        self.released.append((name, served.version))

    async def settings(self, served: ServedVersion) -> ModelSettings:
        return ModelSettings(labels=("bad", "good"), max_length=64, pad_token_id=0, precision="int8")

    async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
        return self.model_card

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        self.batches.append((name, served.version, texts))
        await self.is_open.wait()
        error = self.errors_of.get(served.version, self.replica_error)
        if error:
            raise error
        return [self.answers_of.get(served.version, REPLICAS_ANSWER) for _ in texts]


@asynccontextmanager
async def gateway(backend: FakeBackend, deadline_s: float = 60.0) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(backend, deadline_s=deadline_s)
    # As a server: an exception of the application ends the request and not the server.
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def ask(method: str, path: str, backend: FakeBackend | None = None, **request: Any) -> httpx.Response:
    """One request to a gateway of its own, with an endpoint `news`."""

    async def scenario() -> httpx.Response:
        async with gateway(backend or FakeBackend()) as client:
            await settle()
            return await client.request(method, path, **request)

    return asyncio.run(scenario())
