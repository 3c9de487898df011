import asyncio
from dataclasses import replace

import pytest

import serve.endpoints
from common.errors import ServingError, TrackingError
from serve.batching import ServedVersion
from serve.endpoints import Deployment, Endpoints, EndpointSpec
from serve.exchange import MAX_BODY_BYTES
from tests.fake_backend import GOOD, SPEC, FakeBackend, gateway, run, settle


def test_texts_get_predictions_the_model_and_its_version() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend()) as client:
            response = await client.post("/news/classify", json={"texts": ["a", "b"]})

        assert response.status_code == 200
        assert response.json() == {"predictions": [GOOD, GOOD], "model": "headlines", "version": 1}

    run(scenario)


@pytest.mark.parametrize("body", [{"text": "a"}, {"data": {"sentence": "a"}}])
def test_one_text_gets_one_prediction(body: dict[str, object]) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            response = await client.post("/news/classify", json=body)

        assert response.json() == {**GOOD, "model": "headlines", "version": 1}
        assert backend.batches == [("news", 1, ["a"])]

    run(scenario)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "JSON array; send an object"),
        (b"{}", "exactly one of"),
        (b'{"texts": []}', "at least one"),
        (b'{"texts": ["a", 1]}', "texts[1]: expected a string and not number"),
        (b'{"text": null}', "exactly one of"),
        (b'{"text": "a", "texts": ["b"]}', "exactly one of"),
        (b'{"data": {"text": "a"}}', "data: 'text' is not known here"),
        (b'{"data": {}}', "data.sentence: expected a string"),
        (b'{"inputs": "a"}', "inputs"),
        (b'{"text": "\\ud800"}', "not JSON"),
    ],
)
def test_a_wrong_body_is_explained_and_reaches_no_replica(body: bytes, problem: str) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            response = await client.post("/news/classify", content=body)

        assert response.status_code == 422
        assert problem in response.json()["error"]
        assert backend.batches == []

    run(scenario)


def test_health_documentation_and_wrong_paths_reach_no_replica() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            statuses = {
                path: (await client.get(path)).status_code
                for path in ("/healthz", "/news/healthz", "/docs", "/openapi.json", "/", "/news", "/news/classify")
            }
            unknown = await client.post("/olds/classify", json={"text": "a"})

        assert list(statuses.values()) == [200, 200, 200, 200, 200, 200, 405]
        assert (unknown.status_code, unknown.json()) == (404, {"error": "there is no endpoint 'olds'; there are: news"})
        assert backend.batches == []

    run(scenario)


def test_a_probe_for_a_proxy_of_serves_finds_the_gateway() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend()) as client:
            answer = await client.get("/-/healthz")

        assert (answer.status_code, answer.text) == (200, "success")

    run(scenario)


def test_every_refusal_is_json_with_an_error() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend()) as client:
            for path in ("/news/x", "/news/classify", "/x/healthz"):
                assert list((await client.get(path)).json()) == ["error"]

    run(scenario)


def test_bodies_and_requests_that_are_too_large_are_refused() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            large = await client.post("/news/classify", json={"text": "a" * MAX_BODY_BYTES})
            many = await client.post("/news/classify", json={"texts": ["a"] * 9})

        assert (large.status_code, many.status_code) == (413, 413)
        assert "9 texts are more than the 8 that may wait" in many.json()["error"]
        assert backend.batches == []

    run(scenario)


def test_more_texts_than_may_wait_are_turned_away_for_now() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.is_open.clear()
        async with gateway(backend) as client:
            accepted = asyncio.create_task(client.post("/news/classify", json={"texts": ["a"] * 8}))
            await settle()
            refused = await client.post("/news/classify", json={"text": "b"})
            backend.is_open.set()

            assert refused.status_code == 429
            assert refused.headers["Retry-After"] == "1"
            assert (await accepted).status_code == 200

    run(scenario)


def test_a_wake_that_takes_too_long_ends_with_504() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.is_open.clear()
        async with gateway(backend, deadline_s=0.01) as client:
            response = await client.post("/news/classify", json={"text": "a"})

        assert response.status_code == 504
        assert "no answer within 0.01 s" in response.json()["error"]

    run(scenario)


def test_a_version_that_cannot_be_loaded_is_named() -> None:
    async def scenario() -> None:
        backend = FakeBackend(replica_error=ServingError("version 1 of 'headlines' cannot be loaded: no model.onnx"))
        async with gateway(backend) as client:
            response = await client.post("/news/classify", json={"text": "a"})

        assert (response.status_code, response.json()) == (500, {"error": str(backend.replica_error)})

    run(scenario)


def test_what_nobody_foresaw_is_answered_as_json_and_told_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        backend = FakeBackend(replica_error=KeyError("/secret/path"))
        async with gateway(backend) as client:
            response = await client.post("/news/classify", json={"text": "a"})

        assert response.status_code == 500
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["error"]
        assert "secret" not in response.text

    run(scenario)
    assert "POST /news/classify failed" in caplog.text
    assert "/secret/path" in caplog.text


def test_without_a_known_version_the_reason_is_told() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend(registry_error=TrackingError("http://away does not answer"))) as client:
            response = await client.post("/news/classify", json={"text": "a"})
            health = (await client.get("/news/healthz")).json()

        assert response.status_code == 503
        assert "http://away does not answer" in response.json()["error"]
        assert (health["version"], health["problem"]) == (None, "http://away does not answer")

    run(scenario)


@pytest.mark.parametrize(
    ("deployment", "state"),
    [
        (Deployment(SPEC, num_running=0, num_starting=0), "asleep"),
        (Deployment(SPEC, num_running=0, num_starting=1), "waking"),
        (Deployment(SPEC, num_running=1, num_starting=1), "awake"),
    ],
)
def test_health_tells_how_awake_the_endpoint_is(deployment: Deployment, state: str) -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend(deployed={"news": deployment})) as client:
            await settle()
            health = (await client.get("/news/healthz")).json()
            whole = (await client.get("/healthz")).json()

        expected = {
            "name": "news",
            "state": state,
            "replicas": deployment.num_running,
            "model": "headlines",
            "version": 1,
            "problem": None,
            "pool": "own",
            "canary": None,
        }
        assert health == expected
        assert whole == {"status": "ok", "endpoints": [expected]}

    run(scenario)


def test_an_endpoint_with_a_request_that_waits_is_waking() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        backend.is_open.clear()
        async with gateway(backend) as client:
            request = asyncio.create_task(client.post("/news/classify", json={"text": "a"}))
            await settle()
            assert (await client.get("/news/healthz")).json()["state"] == "waking"
            backend.is_open.set()
            await request

    run(scenario)


@pytest.fixture
def always_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every health check looks at the deployments, so that no test waits for time to pass."""
    monkeypatch.setattr(serve.endpoints, "FRESH_FOR_S", 0.0)


@pytest.mark.parametrize("path", ["/healthz", "/news/healthz"])
@pytest.mark.usefixtures("always_stale")
def test_health_right_after_a_wake_tells_of_it_and_reaches_no_replica(path: str) -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            await settle()
            backend.deployed = {"news": Deployment(SPEC, num_running=1, num_starting=0)}
            health = (await client.get(path)).json()

        (news,) = health.get("endpoints", [health])
        assert (news["state"], news["replicas"]) == ("awake", 1)
        assert backend.batches == []

    run(scenario)


@pytest.mark.usefixtures("always_stale")
def test_health_checks_that_come_together_share_one_look_at_the_deployments() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            await settle()
            backend.may_look.clear()
            num_looks = backend.num_looks
            checks = [asyncio.create_task(client.get("/news/healthz")) for _ in range(5)]
            await settle()
            checks[0].cancel()  # the others still get their answer
            await settle()
            backend.may_look.set()

            assert [(await check).status_code for check in checks[1:]] == [200] * 4
            assert backend.num_looks == num_looks + 1

    run(scenario)


def test_a_health_check_right_after_a_look_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.endpoints, "FRESH_FOR_S", 60.0)

    async def scenario() -> None:
        backend = FakeBackend()
        async with gateway(backend) as client:
            await settle()
            num_looks = backend.num_looks
            await client.get("/healthz")

            assert backend.num_looks == num_looks

    run(scenario)


@pytest.mark.usefixtures("always_stale")
def test_health_tells_what_was_known_when_the_deployments_cannot_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.endpoints, "HEALTH_WAITS_S", 0.01)

    async def scenario() -> None:
        backend = FakeBackend(deployed={"news": Deployment(SPEC, num_running=1, num_starting=0)})
        async with gateway(backend) as client:
            await settle()
            known = (await client.get("/news/healthz")).json()
            backend.look_error = ConnectionError("the controller restarts")
            failed = (await client.get("/news/healthz")).json()
            backend.may_look.clear()
            hanging = (await client.get("/news/healthz")).json()

        assert known["state"] == "awake"
        assert failed == hanging == known

    run(scenario)


def test_the_alias_is_followed_and_each_answer_names_the_version_that_gave_it() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        backend.is_open.clear()
        before = asyncio.create_task(endpoints["news"].classify(["a"], "id"))
        await settle()
        backend.version = 2
        await endpoints.look_at_aliases()
        await settle()
        after = asyncio.create_task(endpoints["news"].classify(["b"], "id"))
        await settle()
        backend.is_open.set()

        assert [(await before)[1], (await after)[1]] == [1, 2]
        assert backend.batches == [("news", 1, ["a"]), ("news", 2, ["b"])]

    run(scenario)


def test_an_unreachable_registry_stops_no_answers() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        await settle()
        backend.registry_error = TrackingError("http://away does not answer")
        await endpoints.look_at_aliases()
        await settle()

        assert (await endpoints["news"].classify(["a"], "id"))[1] == 1
        assert endpoints["news"].health().problem == "http://away does not answer"

        backend.registry_error = None
        await endpoints.look_at_aliases()
        await settle()
        assert endpoints["news"].health().problem is None

    run(scenario)


def test_a_request_right_after_the_deployment_waits_for_the_registry() -> None:
    class SlowRegistry(FakeBackend):
        asked: asyncio.Event

        async def resolve(self, spec: EndpointSpec) -> ServedVersion:
            await self.asked.wait()
            return await super().resolve(spec)

    async def scenario() -> None:
        backend = SlowRegistry()
        backend.asked = asyncio.Event()
        async with gateway(backend) as client:
            request = asyncio.create_task(client.post("/news/classify", json={"text": "a"}))
            await settle()
            backend.asked.set()

            assert (await request).status_code == 200

    run(scenario)


def test_endpoints_come_and_go_with_their_deployments() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        backend.deployed = {"news": Deployment(SPEC, 0, 0), "spam": Deployment(replace(SPEC, model="spam"), 0, 0)}
        await endpoints.look_at_deployments()
        assert endpoints.names() == ["news", "spam"]

        backend.is_open.clear()
        request = asyncio.create_task(endpoints["spam"].classify(["a"], "id"))
        await settle()
        del backend.deployed["spam"]
        await endpoints.look_at_deployments()

        assert endpoints.names() == ["news"]
        with pytest.raises(ServingError, match="'spam' was removed"):
            await request

    run(scenario)


def test_a_changed_limit_holds_without_a_restart() -> None:
    async def scenario() -> None:
        backend = FakeBackend()
        endpoints = Endpoints(backend)
        await endpoints.look_at_deployments()
        before = endpoints["news"]
        backend.deployed = {"news": Deployment(replace(SPEC, max_queued_requests=1), 0, 0)}
        await endpoints.look_at_deployments()

        assert endpoints["news"] is before
        assert endpoints["news"].batcher.max_waiting == 1

    run(scenario)


def test_the_documentation_needs_nothing_from_elsewhere_and_shows_every_form() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend()) as client:
            page = (await client.get("/docs")).text
            schema = (await client.get("/openapi.json")).json()

        assert "http" not in page.replace("/healthz", "")
        assert "openapi.json" in page
        assert "/{name}/classify" in page
        assert "sentence" in page
        body = schema["paths"]["/{name}/classify"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == {"texts", "text", "data"}
        assert "#/$defs" not in str(schema)

    run(scenario)


def test_a_foreign_deployment_is_no_endpoint() -> None:
    assert EndpointSpec.from_user_config(None) is None
    assert EndpointSpec.from_user_config({"threshold": 1}) is None
    assert EndpointSpec.from_user_config(SPEC.as_user_config()) == SPEC
