"""A canary through the whole gateway: what clients, `/healthz`, the metrics and the log see of it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from ray.util.metrics import Metric

import serve.canary
from common.api_keys import KeyRing, keys_path
from common.errors import ServingError
from serve.canary import draws
from serve.canary_settings import CanarySettings
from serve.endpoints import Deployment, Endpoints, EndpointSpec
from serve.event_log import FILE_NAME, EventLog
from serve.gateway_replica import assemble
from tests.fake_backend import REPLICAS_ANSWER, SPEC, FakeBackend, gateway, run, settle

SETTINGS = CanarySettings("canary", 50, 2, "candidate", 3, 0.8, "2026-11-27T05:00:00+00:00")
BAD = {**REPLICAS_ANSWER, "label": "bad"}


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not make one version slower than the other."""
    monkeypatch.setattr(serve.canary, "perf_counter", lambda: 0.0)


def deployed(settings: CanarySettings | None = SETTINGS) -> dict[str, Deployment]:
    return {"news": Deployment(replace(SPEC, canary=settings), 1, 0)}


def request_ids(num: int, *, is_drawn: bool) -> list[str]:
    """Ids of requests that the candidate is asked, or is not."""
    found = (str(number) for number in range(1000) if draws(str(number), SETTINGS) is is_drawn)
    return [request_id for request_id, _ in zip(found, range(num), strict=False)]


def test_a_specification_with_a_canary_outlives_its_journey_through_serve() -> None:
    spec = replace(SPEC, canary=SETTINGS)
    assert EndpointSpec.from_user_config(json.loads(json.dumps(spec.as_user_config()))) == spec
    assert EndpointSpec.from_user_config({**spec.as_user_config(), "canary": {"share": 3}}) is None


def test_a_canary_finishes_through_the_gateway_and_tells_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    recorded = []
    monkeypatch.setattr(Metric, "_record", lambda self, value, tags: recorded.append((self.info["name"], value, tags)))
    backend, log = FakeBackend(deployed()), EventLog(tmp_path)

    async def scenario() -> None:
        app = assemble(backend, KeyRing(keys_path()), log, on_loopback=True)
        endpoints: Endpoints = app.state.endpoints
        await endpoints.look_at_deployments()
        await settle()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            for is_drawn, version in ((True, "2"), (False, "1")):
                for request_id in request_ids(3, is_drawn=is_drawn):
                    answer = await client.post(
                        "/news/classify", json={"text": "a"}, headers={"x-request-id": request_id}
                    )
                    await settle()
                    assert (answer.status_code, answer.headers["X-Model-Version"]) == (200, version)
                    assert answer.json()["version"] == int(version)
            await endpoints.look_at_deployments()
            await endpoints.look_at_aliases()
            await settle()
            await endpoints.look_at_aliases()  # which meets the alias where the canary put it
            await settle()
            health = (await client.get("/news/healthz")).json()
        assert health["version"] == backend.version == 2
        assert (health["canary"]["state"], health["canary"]["compared"]) == ("finished", 3)

    run(scenario)
    log.close()
    requests = [tags["version"] for name, _, tags in recorded if name == "tuneserve_requests"]
    assert requests == ["2"] * 3 + ["1"] * 3 + ["2"]  # the last asked how the endpoint is
    assert ("tuneserve_canary_percent", 50, {"endpoint": "news"}) in recorded
    assert ("tuneserve_canary_agreement", 1.0, {"endpoint": "news"}) in recorded
    (line,) = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text("utf-8").splitlines()]
    assert (line["event"], line["endpoint"], line["version"], line["champion"]) == ("canary_finished", "news", 2, 1)
    assert line["compared"] == 3


def test_a_broken_candidate_fails_no_request_and_is_rolled_back() -> None:
    backend = FakeBackend(deployed(), errors_of={2: ServingError("version 2 cannot be loaded")})

    async def scenario() -> None:
        async with gateway(backend) as client:
            await settle()
            answers = [await client.post("/news/classify", json={"text": "a"}) for _ in range(60)]
            endpoints: Endpoints = client._transport.app.state.endpoints  # type: ignore[attr-defined]
            await endpoints.look_at_aliases()
            await settle()
            health = (await client.get("/news/healthz")).json()

        assert {(answer.status_code, answer.headers["X-Model-Version"]) for answer in answers} == {(200, "1")}
        assert (health["version"], health["canary"]["state"]) == (1, "rolled back")
        assert health["canary"]["candidate"]["error_rate"] == 1.0

    run(scenario)
    assert [(name, outcome.state) for name, outcome in backend.conclusions] == [("news", "rolled back")]


def test_a_gateway_that_starts_anew_does_not_try_a_rolled_back_candidate_again() -> None:
    backend = FakeBackend(deployed(), answers_of={2: BAD})

    async def scenario() -> None:
        async with gateway(backend) as client:
            await settle()
            for _ in range(60):
                await client.post("/news/classify", json={"text": "a"})
                await settle()
            endpoints: Endpoints = client._transport.app.state.endpoints  # type: ignore[attr-defined]
            await endpoints.look_at_aliases()
            await settle()
        backend.batches.clear()
        async with gateway(backend) as client:
            await settle()
            for _ in range(20):
                await client.post("/news/classify", json={"text": "a"})
            health = (await client.get("/news/healthz")).json()
        assert health["canary"]["state"] == "rolled back"
        assert health["canary"]["agreement"] == 0.0

    run(scenario)
    assert {version for _, version, _ in backend.batches} == {1}


def test_a_deployment_without_the_canary_ends_it_and_another_begins_anew() -> None:
    async def scenario() -> None:
        backend = FakeBackend(deployed())
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        await settle()
        assert {(await endpoints["news"].classify(["a"], str(number)))[1] for number in range(40)} == {1, 2}

        backend.deployed = deployed(None)
        await endpoints.look_at_deployments()
        assert {(await endpoints["news"].classify(["a"], str(number)))[1] for number in range(40)} == {1}
        assert endpoints["news"].health().canary is None

        backend.deployed = deployed(replace(SETTINGS, version=3))
        await endpoints.look_at_deployments()
        await endpoints.look_at_aliases()
        await settle()
        assert {(await endpoints["news"].classify(["a"], str(number)))[1] for number in range(40)} == {1, 3}

    run(scenario)


def test_versions_that_alternate_still_travel_in_whole_batches() -> None:
    async def scenario() -> None:
        backend = FakeBackend({"news": Deployment(replace(SPEC, canary=SETTINGS, max_queued_requests=64), 1, 0)})
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        await settle()
        backend.is_open.clear()
        asked = [asyncio.create_task(endpoints["news"].classify(["a"], str(number))) for number in range(32)]
        await settle()
        backend.is_open.set()
        await asyncio.gather(*asked)
        await settle()
        # Two went at once, one text each; a batch of each version took the rest; one request was compared.
        assert len(backend.batches) <= 5

    run(scenario)
