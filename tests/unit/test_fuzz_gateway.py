"""Whatever a client sends, the gateway answers as its OpenAPI document says, or not at all; it never fails or grows.

The gateway is the whole one, behind the HTTP server that it listens with; only what is behind it is faked. Every
route that the document lists is tried.
"""

import gc
import itertools
import json
import logging
import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
import uvicorn
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from common.api_keys import KeyRing, keys_path
from common.request_log_settings import RequestLog
from serve.endpoints import Deployment
from serve.event_log import EventLog
from serve.exchange import RefusedError
from serve.gateway_replica import assemble
from serve.protocols.native import REQUEST, parse_request
from tests.fake_backend import SPEC, FakeBackend

ANSWER_TIMEOUT_S = 30.0

THERE = {"name": "news", "model": "news", "version": "1", "id": "0"}
"""What stands in a path for something that is there, but for jobs, whose ids nobody can guess."""

LONG = [pytest.mark.slow, pytest.mark.timeout(1_800)]


@dataclass(frozen=True)
class Server:
    """A gateway that listens."""

    port: int
    document: dict[str, Any]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def posted_paths(self) -> list[str]:
        """Every path that takes a body, for an endpoint and a model that are there."""
        paths = self.document["paths"].items()
        return [path.format(**THERE) for path, operations in paths if "post" in operations]

    def send(self, raw: bytes, *, and_leave: bool = False) -> bytes:
        """All that it answers to these bytes; nothing where the client leaves in the middle of them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_TIMEOUT_S) as connection:
            connection.sendall(raw)
            if and_leave:
                return b""
            answer = b""
            while part := connection.recv(65_536):
                answer += part
        return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("gateway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESERVE_HOME", str(folder))
        spec = replace(SPEC, storage=str(folder), request_log=RequestLog(texts="redacted"))
        app = assemble(
            FakeBackend({"news": Deployment(spec, 0, 0)}), KeyRing(keys_path()), EventLog(folder), on_loopback=True
        )
    listening = socket.create_server(("127.0.0.1", 0))
    serving = uvicorn.Server(uvicorn.Config(app, lifespan="on", access_log=False, log_config=None))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    while not serving.started:
        time.sleep(0.01)
    yield Server(listening.getsockname()[1], app.openapi())
    serving.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def nothing_failed(server: Server, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No test leaves an error in the log, and after each the gateway still answers."""
    caplog.set_level(logging.ERROR)
    yield
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(f"{server.url}/healthz", timeout=ANSWER_TIMEOUT_S).json()["status"] == "ok"
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("num_examples", [40, pytest.param(5_000, marks=LONG)])
def test_every_answer_is_one_that_the_document_describes(
    server: Server, mode: GenerationMode, num_examples: int
) -> None:
    schema = schemathesis.openapi.from_dict(server.document)
    schema.config.update(base_url=server.url)
    session = requests.Session()
    session.trust_env = False

    @given(case=schema.as_strategy(generation_mode=mode), is_there=st.booleans())
    @settings(
        max_examples=num_examples,
        derandomize=num_examples < 100,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case, is_there: bool) -> None:
        if is_there:
            case.path_parameters.update({name: THERE[name] for name in case.path_parameters})
        # Of a body that the schema allows there may still be too much: the schema knows no endpoint's limit.
        case.call_and_validate(session=session, excluded_checks=[positive_data_acceptance])

    with session:
        ask()


_TEXT = st.none() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=3)
_VALUE = _TEXT | st.lists(_TEXT, max_size=3) | st.dictionaries(st.sampled_from(["sentence", "text"]), _TEXT, max_size=2)


@given(body=st.dictionaries(st.sampled_from(["text", "texts", "data", "inputs"]), _VALUE, max_size=3))
@example(body={})
@example(body={"text": None})
@example(body={"text": "a", "texts": ["b"]})
@example(body={"text": "a", "texts": None})
@example(body={"data": {"sentence": "a", "text": "b"}})
def test_the_document_allows_exactly_the_bodies_that_are_accepted(body: dict[str, Any]) -> None:
    try:
        parse_request(json.dumps(body).encode())
        is_accepted = True
    except RefusedError:
        is_accepted = False
    assert jsonschema.Draft202012Validator(REQUEST).is_valid(body) == is_accepted


def posted(path: str, body: bytes, *, length: int | None = None, headers: bytes = b"") -> bytes:
    length = len(body) if length is None else length
    start = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n".encode()
    return start + headers + b"\r\n" + body


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer.split(b" ", 2)[1])


HOSTILE_BODIES = {
    "nested lists": b"[" * 200_000,
    "nested objects": b'{"text":' * 100_000,
    "nested lists that close": b'{"texts":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a number of 100,001 digits": b'{"text": 1' + b"0" * 100_000 + b"}",
    "a number beyond all numbers": b'{"texts": [1e999999999]}',
    "no number": b'{"texts": [NaN, Infinity, -Infinity]}',
    "an escaped NUL": b'{"text": "\\u0000"}',
    "a NUL": b'{"text": "\x00"}',
    "a lone surrogate": b'{"text": "\\ud800"}',
    "surrogates in the wrong order": b'{"texts": ["\\udc00\\ud800"]}',
    "broken UTF-8": b'{"text": "\xff\xfe"}',
    "a surrogate in UTF-8": b'{"text": "\xed\xa0\x80"}',
    "overlong UTF-8": b'{"text": "\xc0\xaf"}',
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"text": "a"}',
    "a key twice": b'{"text": "a", "text": "b"}',
    "many keys": b"{" + b",".join(b'"k%d": 0' % number for number in range(20_000)) + b"}",
    "text after the end": b'{"text": "a"} {"text": "b"}',
    "nothing": b"",
    "zeros": b"\x00" * 100_000,
}


@pytest.mark.parametrize("body", HOSTILE_BODIES.values(), ids=HOSTILE_BODIES)
def test_a_hostile_body_is_answered_or_refused(server: Server, body: bytes) -> None:
    for path in server.posted_paths():
        assert status(server.send(posted(path, body))) in {200, 202, 400, 413, 415, 422, 429}


@pytest.mark.parametrize("num_examples", [100, pytest.param(20_000, marks=LONG)])
def test_any_body_is_answered_or_refused(server: Server, num_examples: int) -> None:
    json_like = st.recursive(
        st.none() | st.booleans() | st.integers().map(str) | st.text(alphabet=st.characters(codec="utf-8")),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["text", "texts", "data", "inputs"]), inner),
    )
    bodies = st.binary(max_size=2_000) | json_like.map(lambda value: repr(value).replace("'", '"').encode())

    @given(path=st.sampled_from(server.posted_paths()), body=bodies)
    @settings(max_examples=num_examples, derandomize=num_examples < 1_000, database=None)
    def ask(path: str, body: bytes) -> None:
        assert status(server.send(posted(path, body))) in {200, 202, 400, 413, 415, 422, 429}

    ask()


HOSTILE_REQUESTS = {
    "a length below zero": posted("/news/classify", b"", length=-1),
    "a length beyond all lengths": posted("/news/classify", b"{}", length=10**30),
    "two lengths": posted("/news/classify", b"{}", headers=b"Content-Length: 5\r\n"),
    "a length and chunks": posted("/news/classify", b"0\r\n\r\n", headers=b"Transfer-Encoding: chunked\r\n"),
    "a chunk of no size": b"POST /news/classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bytes in the path": b"GET /\xff\xfe/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "an escaped NUL in the path": posted("/%00%ff%fe/classify", b"{}"),
    "a surrogate in the path": posted("/%ed%a0%80/classify", b"{}"),
    "a broken escape in the path": posted("/%zz/classify", b"{}"),
    "a path out of the tree": posted("/../../etc/passwd", b"{}"),
    "no method": b"\x00X / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header without an end": posted("/news/classify", b"{}", headers=b"X: " + b"a" * 100_000 + b"\r\n"),
    "a key of bytes": posted("/news/classify", b"{}", headers=b"Authorization: Bearer \xff\xfe\r\n"),
    "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(100),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE_REQUESTS.values(), ids=HOSTILE_REQUESTS)
def test_what_is_hardly_http_is_refused(server: Server, raw: bytes) -> None:
    assert 400 <= status(server.send(raw)) < 500


@given(raw=st.binary(min_size=1, max_size=500))
@settings(max_examples=50, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_leave_the_gateway_as_it_was(server: Server, raw: bytes) -> None:
    server.send(raw, and_leave=True)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_failure(server: Server) -> None:
    for path in server.posted_paths():
        server.send(posted(path, b'{"te', length=100), and_leave=True)


def test_hostile_requests_leave_no_memory_behind(server: Server) -> None:
    def attack() -> int:
        for path, body in zip(itertools.cycle(server.posted_paths()), HOSTILE_BODIES.values(), strict=False):
            server.send(posted(path, body))
        for number, raw in enumerate(HOSTILE_REQUESTS.values()):
            server.send(raw)
            server.send(raw[: number * 10], and_leave=True)
        for _ in range(100):  # made-up names must not stay
            server.send(posted(f"/{os.urandom(200).hex()}/classify", b"{}"))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        attack()
        before = attack()
        after = attack()
    finally:
        tracemalloc.stop()
    assert after - before < 40_000, "100 names of 400 characters take that much"


def test_the_whole_document_is_tried(server: Server) -> None:
    assert {"/healthz", "/{name}/healthz", "/{name}/classify"} <= server.document["paths"].keys()
    assert "/news/classify" in server.posted_paths()
