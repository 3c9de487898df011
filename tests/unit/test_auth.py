"""Who gets past the gateway: everybody on loopback, elsewhere nobody without a key that opens what is asked for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api_keys import KeyRing, create_key, keys_path
from common.recipe import AuthMode
from serve.auth import Authentication, is_loopback, protect
from serve.endpoints import Deployment
from serve.gateway import create_app
from tests.fake_backend import SPEC, FakeBackend

BODY = {"text": "good"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    return tmp_path


def backend(auth: AuthMode = "auto") -> FakeBackend:
    return FakeBackend({"news": Deployment(replace(SPEC, auth=auth), 1, 0), "spam": Deployment(SPEC, 1, 0)})


@asynccontextmanager
async def gateway(
    behind: FakeBackend | None = None, *, on_loopback: bool = False, root_path: str = ""
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(behind or backend())
    protect(app, app.state.endpoints, KeyRing(keys_path()), on_loopback=on_loopback)
    transport = httpx.ASGITransport(app, root_path=root_path)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_beyond_loopback_a_key_is_needed_and_the_endpoint_is_not_reached_without() -> None:
    async def scenario() -> None:
        behind = backend()
        async with gateway(behind) as client:
            refused = await client.post("/news/classify", json=BODY)
            assert behind.batches == []
            accepted = await client.post("/news/classify", json=BODY, headers=bearer(create_key("ci")))

        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"] == 'Bearer realm="tuneserve"'
        assert list(refused.json()) == ["error"]
        assert accepted.status_code == 200

    run(scenario)


@pytest.mark.parametrize(
    ("auth", "on_loopback", "status"),
    [
        ("auto", True, 200),
        ("auto", False, 401),
        ("required", True, 401),
        ("required", False, 401),
        ("none", True, 200),
        ("none", False, 200),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_endpoints_setting_decides(auth: AuthMode, on_loopback: bool, status: int, method: str) -> None:
    async def scenario() -> None:
        async with gateway(backend(auth), on_loopback=on_loopback) as client:
            answers = {
                "POST": await client.post("/news/classify", json=BODY),
                "GET": await client.get("/news/healthz"),
            }
        assert answers[method].status_code == status

    run(scenario)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Bearer {key}x",
        "Bearer x{key}",
        "Bearer {key} {key}",
        "Token {key}",
        "Bearer ts_000000000000_" + "0" * 48,
    ],
)
def test_whatever_is_not_the_key_as_a_bearer_token_is_refused(header: str) -> None:
    async def scenario() -> None:
        key = create_key("ci")
        async with gateway() as client:
            response = await client.get("/news/healthz", headers={"Authorization": header.format(key=key)})
        assert response.status_code == 401
        assert key not in response.text

    run(scenario)


@given(value=st.binary())
def test_no_header_of_any_bytes_gets_in_or_fails(value: bytes) -> None:
    async def scenario() -> None:
        async def never(*_: Any) -> None:
            raise AssertionError("the application was reached")

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard = Authentication(never, keys=KeyRing(keys_path()), mode_of=lambda _: "auto", on_loopback=False)
        scope = {"type": "http", "path": "/news/classify", "headers": [(b"authorization", value)]}
        await guard(scope, never, send)
        assert sent[0]["status"] == 401

    run(scenario)


def test_a_key_anywhere_else_than_in_the_header_opens_nothing() -> None:
    async def scenario() -> None:
        key = create_key("ci")
        async with gateway() as client:
            for options in ({"params": {"key": key, "access_token": key}}, {"cookies": {"key": key}}):
                client.cookies.clear()
                request = client.build_request("GET", "/news/healthz", **options)  # type: ignore[arg-type]
                assert (await client.send(request)).status_code == 401

    run(scenario)


def test_a_wrong_key_and_a_wrong_scope_are_told_apart_as_rfc_6750_has_it() -> None:
    async def scenario() -> None:
        key = create_key("ci", ["spam"])
        async with gateway() as client:
            unknown = await client.get("/news/healthz", headers=bearer("ts_x"))
            other = await client.get("/news/healthz", headers=bearer(key))
            own = await client.get("/spam/healthz", headers={"Authorization": f"bearer  {key}"})

        assert (unknown.status_code, other.status_code, own.status_code) == (401, 403, 200)
        assert unknown.headers["WWW-Authenticate"] == 'Bearer realm="tuneserve", error="invalid_token"'
        assert other.headers["WWW-Authenticate"] == 'Bearer realm="tuneserve", error="insufficient_scope"'
        assert other.json() == {"error": "the API key 'ci' does not open 'news'"}

    run(scenario)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer ts_x"}])
def test_the_pages_and_their_files_are_open_and_tell_a_stranger_nothing(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with gateway(backend("required")) as client:
            for path in ("/", "/news/page/style.css", "/nowhere/page/page.js", "/_gateway/page/index.js"):
                assert (await client.get(path, headers=headers)).status_code == 200
            there = await client.get("/news", headers=headers)
            nowhere = await client.get("/nowhere", headers=headers)
            others = ["/news/card", "/news/page/x.js", "/news/page", "/news/page/style.css/x", "/favicon.ico"]
            refused = [(await client.get(path, headers=headers)).status_code for path in others]
            posted = await client.post("/news", json={"inputs": "a"}, headers=headers)

        assert (there.status_code, nowhere.status_code) == (200, 200)
        assert there.text.replace("news", "nowhere") == nowhere.text
        assert {*refused, posted.status_code} == {401}

    run(scenario)


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer ts_x"}])
def test_a_stranger_cannot_tell_which_endpoints_exist(headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with gateway() as client:
            there = await client.get("/news/healthz", headers=headers)
            nowhere = await client.get("/nowhere/healthz", headers=headers)
            whole = await client.get("/healthz", headers=headers)
            probe = await client.get("/-/healthz", headers=headers)

        assert (probe.status_code, probe.text) == (200, "success")
        assert (there.status_code, there.json()) == (nowhere.status_code, nowhere.json())
        assert (whole.status_code, whole.json()) == (200, {"status": "ok", "endpoints": []})

    run(scenario)


def test_only_a_key_for_all_endpoints_sees_them_all() -> None:
    async def scenario() -> None:
        async with gateway() as client:
            everything = await client.get("/healthz", headers=bearer(create_key("all")))
            one = await client.get("/healthz", headers=bearer(create_key("one", ["news"])))

        assert [found["name"] for found in everything.json()["endpoints"]] == ["news", "spam"]
        assert one.json()["endpoints"] == []

    run(scenario)


def test_every_documented_route_of_an_endpoint_is_guarded() -> None:
    async def scenario() -> None:
        async with gateway() as client:
            paths = (await client.get("/openapi.json")).json()["paths"]
            for path, operations in paths.items():
                for method, operation in operations.items():
                    response = await client.request(method, path.replace("{name}", "news"))
                    assert response.status_code == (200 if path == "/healthz" else 401), path
                    assert ("401" in operation["responses"]) == ("security" in operation) == (path != "/healthz")

    run(scenario)


@pytest.mark.parametrize("path", ["//news/classify", "/%6eews/classify", "/x/../news/classify", "/news/classify/"])
def test_no_way_of_writing_a_path_gets_around_the_guard(path: str) -> None:
    async def scenario() -> None:
        behind = backend("required")
        async with gateway(behind, on_loopback=True) as client:
            response = await client.post(path, json=BODY)
        assert behind.batches == []
        assert response.status_code in (401, 404)

    run(scenario)


def test_a_prefix_that_a_proxy_took_away_does_not_hide_the_endpoint() -> None:
    async def scenario() -> None:
        behind = backend("required")
        async with gateway(behind, on_loopback=True, root_path="/models") as client:
            response = await client.post("/models/news/classify", json=BODY)
        assert (response.status_code, behind.batches) == (401, [])

    run(scenario)


def test_while_the_keys_cannot_be_read_nobody_gets_in(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        key = create_key("ci")
        keys_path().write_text("{")
        async with gateway() as client:
            response = await client.post("/news/classify", json=BODY, headers=bearer(key))
        assert response.status_code == 503
        assert str(keys_path()) not in response.text

    run(scenario)
    assert str(keys_path()) in caplog.text


def test_a_websocket_is_refused_too() -> None:
    async def scenario() -> None:
        async def never(*_: Any) -> None:
            raise AssertionError("the application was reached")

        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard = Authentication(never, keys=KeyRing(keys_path()), mode_of=lambda _: "auto", on_loopback=False)
        scope = {"type": "websocket", "path": "/news/stream", "headers": [], "extensions": {}}
        await guard(scope, never, send)
        assert sent[0]["status"] == 401

    run(scenario)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_only_what_no_other_machine_can_reach_counts_as_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
