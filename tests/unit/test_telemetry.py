"""What is measured and logged of the gateway, and what must never be."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.util.metrics import Metric

import serve.endpoints
from common.api_keys import KeyRing, create_key, keys_path
from common.errors import ServingError
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment
from serve.event_log import FILE_NAME, EventLog
from serve.gateway_replica import assemble
from tests.fake_backend import SPEC, FakeBackend

SECRET = "the text of a patient"


@dataclass
class Seen:
    """What was recorded, and what was logged."""

    records: list[tuple[str, float, dict[str, str]]]
    folder: Path

    def of(self, name: str) -> list[tuple[float, dict[str, str]]]:
        """Values and tags of one figure, in their order."""
        return [(value, tags) for found, value, tags in self.records if found == f"tuneserve_{name}"]

    def events(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return [json.loads(line) for line in (self.folder / FILE_NAME).read_text("utf-8").splitlines()]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Seen:
    found = Seen([], tmp_path)
    record = Metric._record

    def note(self: Metric, value: float, tags: dict[str, str]) -> None:
        record(self, value, tags)  # which refuses wrong tags
        found.records.append((self.info["name"], value, tags))

    monkeypatch.setattr(Metric, "_record", note)
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    monkeypatch.setattr(serve.endpoints, "FRESH_FOR_S", 0.0)  # every health check looks at the deployments
    return found


@asynccontextmanager
async def gateway(seen: Seen, backend: Any, *, on_loopback: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    log = EventLog(seen.folder)
    app = assemble(backend, KeyRing(keys_path()), log, on_loopback=on_loopback)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        await client.get("/news/healthz")
        seen.records.clear()
        yield client
    log.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_requests_texts_and_batches_are_counted_by_endpoint_and_version(seen: Seen) -> None:
    async def scenario() -> None:
        async with gateway(seen, FakeBackend(version=7)) as client:
            await client.post("/news/classify", json={"texts": ["a", "b", "c"]})
            await client.post("/news/classify", json={})

    run(scenario)
    tags = {"endpoint": "news", "version": "7"}
    assert seen.of("requests") == [(1, {**tags, "status": "200"}), (1, {**tags, "status": "422"})]
    assert seen.of("texts") == [(3, tags)]
    assert seen.of("batch_texts") == [(3, tags)]
    ((seconds, answered),) = seen.of("request_seconds")
    assert answered == tags
    assert seconds >= 0


def test_texts_and_batches_count_for_the_version_that_answered_them(seen: Seen) -> None:
    async def scenario() -> None:
        backend = FakeBackend(version=1)
        backend.is_open.clear()
        async with gateway(seen, backend) as client:
            request = asyncio.create_task(client.post("/news/classify", json={"text": "a"}))
            await settle()
            backend.version = 2
            backend.is_open.set()
            await request

    run(scenario)
    assert seen.of("texts") == [(1, {"endpoint": "news", "version": "1"})]


def test_what_a_client_makes_up_is_no_tag(seen: Seen) -> None:
    async def scenario() -> None:
        async with gateway(seen, FakeBackend()) as client:
            for number in range(5):
                await client.post(f"/made-up-{number}/classify", json={"text": "a"})
            await client.request("MADEUP", "/news/classify")

    run(scenario)
    names = {tags["endpoint"] for _, tags in seen.of("requests")}
    assert names == {"_gateway", "news"}


def test_refusals_for_want_of_a_key_are_counted_and_logged_with_the_keys_name_only(seen: Seen) -> None:
    key = create_key("ci", ["spam"])

    async def scenario() -> None:
        async with gateway(seen, FakeBackend(), on_loopback=False) as client:
            await client.get(f"/news/healthz?key={key}")
            await client.get("/news/healthz", headers={"Authorization": f"Bearer {key}"})

    run(scenario)
    assert [tags["status"] for _, tags in seen.of("requests")] == ["401", "403"]
    refusals = [(event["status"], event.get("key")) for event in seen.events()[-2:]]
    assert refusals == [(401, None), (403, "ci")]
    assert key not in (seen.folder / FILE_NAME).read_text()


def test_replicas_and_waiting_texts_are_sampled_and_fall_to_zero_with_the_endpoint(seen: Seen) -> None:
    async def scenario() -> None:
        backend = FakeBackend({"news": Deployment(SPEC, 2, 0)})
        backend.is_open.clear()
        async with gateway(seen, backend) as client:
            request = asyncio.create_task(client.post("/news/classify", json={"texts": ["a", "b"]}))
            await settle()
            await client.get("/healthz")
            assert [seen.of("replicas")[-1], seen.of("waiting_texts")[-1]] == [
                (2, {"endpoint": "news"}),
                (2, {"endpoint": "news"}),
            ]
            backend.deployed = {}
            await client.get("/healthz")
            await request
            assert [seen.of("replicas")[-1][0], seen.of("waiting_texts")[-1][0]] == [0, 0]
            before = len(seen.of("replicas"))
            await client.get("/healthz")
            assert len(seen.of("replicas")) == before

    run(scenario)


def test_a_wake_is_measured_once_and_logged(seen: Seen) -> None:
    async def scenario() -> None:
        async with gateway(seen, FakeBackend(version=3)) as client:
            for _ in range(2):
                assert (await client.post("/news/classify", json={"texts": [SECRET, "b"]})).status_code == 200

    run(scenario)
    assert [tags for _, tags in seen.of("wake_seconds")] == [{"endpoint": "news"}]
    (event,) = seen.events()
    assert {name: event[name] for name in ("event", "endpoint", "version", "texts")} == {
        "event": "woke",
        "endpoint": "news",
        "version": 3,
        "texts": 2,
    }


def test_a_failure_is_one_line_and_never_holds_a_text(seen: Seen) -> None:
    class Quoting(FakeBackend):
        async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
            raise ServingError(f"cannot encode {texts[0]!r}")

    async def scenario() -> None:
        async with gateway(seen, Quoting()) as client:
            await client.post("/news/classify", json={"text": SECRET})
            await client.post(f"/news/{SECRET}", json={"text": SECRET})
            await client.post("/news/classify", content=f'{{"wrong": "{SECRET}"}}')
            await client.post(f"/{SECRET}/classify", json={"text": "a"})

    run(scenario)
    woke, *failed = seen.events()
    assert (woke["event"], woke["error"]) == ("wake_failed", "ServingError")
    assert [(event["status"], event["endpoint"], event.get("route")) for event in failed] == [
        (500, "news", "/{name}/classify"),
        (404, "news", None),
        (422, "news", "/{name}/classify"),
        (404, "_gateway", "/{name}/classify"),
    ]
    assert "patient" not in (seen.folder / FILE_NAME).read_text()
    assert "patient" not in str(seen.records)


def test_what_nobody_foresaw_counts_as_500(seen: Seen) -> None:
    async def scenario() -> None:
        async with gateway(seen, FakeBackend(replica_error=KeyError("x"))) as client:
            await client.post("/news/classify", json={"text": "a"})

    run(scenario)
    assert [tags["status"] for _, tags in seen.of("requests")] == ["500"]


def test_a_client_that_leaves_counts_as_499(seen: Seen) -> None:
    async def scenario() -> None:
        backend = FakeBackend({"news": Deployment(replace(SPEC), 1, 0)})
        backend.is_open.clear()
        async with gateway(seen, backend) as client:
            request = asyncio.create_task(client.post("/news/classify", json={"text": "a"}))
            await settle()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)

    run(scenario)
    assert [tags["status"] for _, tags in seen.of("requests")] == ["499"]
