"""`GET /<name>/requests` through the whole gateway: what it shows, to whom, and that nothing fails for it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.api_keys import KeyRing, create_key, keys_path
from common.recipe import AuthMode
from common.request_log_settings import RequestLog
from serve.endpoints import Deployment
from serve.event_log import EventLog
from serve.gateway_replica import assemble
from serve.request_log import RequestLogs
from tests.fake_backend import SPEC, FakeBackend

KEPT = RequestLog()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))


def serving(
    scenario: Callable[[httpx.AsyncClient], Awaitable[Any]],
    tmp_path: Path,
    log: RequestLog | None = KEPT,
    auth: AuthMode = "auto",
    **backend: Any,
) -> Any:
    """What the scenario returns, with a gateway on loopback before an endpoint `news`."""

    async def run() -> Any:
        spec = replace(SPEC, storage=str(tmp_path / "storage"), request_log=log, auth=auth)
        fake = FakeBackend({"news": Deployment(spec, 1, 0)}, **backend)
        app = assemble(fake, KeyRing(keys_path()), EventLog(tmp_path / "logs"), on_loopback=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://x")
        async with app.router.lifespan_context(app), client:
            return await scenario(client)

    return asyncio.run(run())


async def told(client: httpx.AsyncClient, num_rows: int) -> dict[str, Any]:
    """What the gateway tells, once its log's thread has taken so many texts."""
    while True:
        found: dict[str, Any] = (await client.get("/news/requests")).json()
        if sum(found["counts"]["status"].values()) >= num_rows:
            return found
        await asyncio.sleep(0)


def test_texts_of_every_protocol_are_told_with_what_became_of_them(tmp_path: Path) -> None:
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["four"]}
    bodies = {
        "/classify": {"text": "one"},
        "": {"inputs": "two"},
        "/predict": {"inputs": [["three", "its pair"]]},
        "/v2/models/news/infer": {"inputs": [text]},
        "/invocations": {"inputs": ["five"]},
    }

    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        for path, body in bodies.items():
            sent = await client.post(f"/news{path}", json=body, headers={"x-request-id": f"id{path}"})
            assert sent.status_code == 200
        assert (await client.post("/news/classify", json={"wrong": "never read"})).status_code == 422
        return await told(client, 5)

    found = serving(scenario, tmp_path)

    assert [(row["protocol"], row["text"], row["text_pair"]) for row in reversed(found["requests"])] == [
        ("classify", "one", None),
        ("hugging-face", "two", None),
        ("text-embeddings-inference", "three", "its pair"),
        ("open-inference", "four", None),
        ("mlflow", "five", None),
    ]
    newest = found["requests"][0]
    assert (newest["request_id"], newest["label"], newest["score"], newest["version"]) == (
        "id/invocations",
        "good",
        0.75,
        1,
    )
    assert newest["latency_ms"] >= 0
    assert found["counts"] == {"label": {"good": 5}, "version": {"1": 5}, "status": {"200": 5}}
    assert (found["texts"], found["dropped"]) == ("plain", 0)


def test_refused_texts_are_told_with_their_status(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> dict[str, Any]:
        await client.post("/news/classify", json={"text": "a"})
        return await told(client, 1)

    found = serving(scenario, tmp_path, replica_error=KeyError("nobody foresaw this"))

    (row,) = found["requests"]
    assert (row["status"], row["text"], row["label"], row["scores"]) == (500, "a", None, None)


def test_without_a_log_nothing_is_told_or_written(tmp_path: Path) -> None:
    async def scenario(client: httpx.AsyncClient) -> httpx.Response:
        await client.post("/news/classify", json={"text": "a"})
        return await client.get("/news/requests")

    response = serving(scenario, tmp_path, log=None)

    assert response.status_code == 404
    assert "set serve.request_log in its recipe" in response.json()["error"]
    assert not (tmp_path / "storage").exists()


def test_whoever_may_ask_a_public_endpoint_may_not_read_what_others_asked(tmp_path: Path) -> None:
    key, other = create_key("operator", ["news"]), create_key("stranger", ["spam"])

    async def scenario(client: httpx.AsyncClient) -> list[int]:
        assert (await client.post("/news/classify", json={"text": "a"})).status_code == 200
        headers = [{}, *({"Authorization": f"Bearer {found}"} for found in (other, key))]
        paths = ["/news/requests", "/news/requests/", "//news/requests"]
        return [(await client.get(path, headers=sent)).status_code for path in paths for sent in headers]

    plain, slash, double = (serving(scenario, tmp_path, auth="none")[start : start + 3] for start in (0, 3, 6))
    assert plain == [401, 403, 200]
    assert 200 not in {*slash, *double}


def test_a_request_is_answered_when_its_log_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(RequestLogs, "answered", fail)

    async def scenario(client: httpx.AsyncClient) -> int:
        return (await client.post("/news/classify", json={"text": "a"})).status_code

    assert serving(scenario, tmp_path) == 200
