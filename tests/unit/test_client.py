import ast
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import serve.client
from serve.client import (
    LONGEST_PAUSE_S,
    MAX_CHARS,
    MAX_TEXTS,
    AnswerError,
    AsyncClient,
    Client,
    ClientError,
    JobFailedError,
    Prediction,
    RefusedError,
    UnavailableError,
)
from serve.exchange import MAX_BODY_BYTES, MAX_TEXT_CHARS
from tests.fake_backend import FakeBackend, gateway, run

URL = "http://x/news"
Outcome = httpx.Response | Exception


@dataclass
class Clock:
    """Time passes only while somebody sleeps."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return use(monkeypatch, Clock())


def use(patch: pytest.MonkeyPatch, clock: Clock) -> Clock:
    patch.setattr(serve.client, "time", clock)
    patch.setattr(serve.client, "asyncio", SimpleNamespace(sleep=clock.sleep_async))
    return clock


@dataclass
class Server:
    """Answers each text with itself as the label, after the outcomes that were prepared; notes what it was asked."""

    outcomes: list[Callable[[], Outcome]] = field(default_factory=list)
    max_texts: int = 10_000
    asked: list[list[str]] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.outcomes:
            outcome = self.outcomes.pop(0)()
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        texts = json.loads(request.content)["texts"]
        if len(texts) > self.max_texts:
            return httpx.Response(413, json={"error": "too many"})
        self.asked.append(texts)
        found = [{"label": text, "score": 1.0, "scores": {text: 1.0}} for text in texts]
        return httpx.Response(200, json={"predictions": found, "model": "m", "version": 4})

    def client(self, **options: object) -> Client:
        return Client(URL, transport=httpx.MockTransport(self), **options)  # type: ignore[arg-type]


def labels(found: Iterator[Prediction]) -> list[str]:
    return [prediction.label for prediction in found]


BUSY = st.sampled_from(
    [
        lambda: httpx.Response(429, json={"error": "full"}, headers={"Retry-After": "1"}),
        lambda: httpx.Response(502, text="<html>bad gateway"),
        lambda: httpx.Response(503, json={"error": "no model"}, headers={"Retry-After": "soon"}),
        lambda: httpx.Response(504, json=[]),
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ReadTimeout("slow"),
        lambda: httpx.RemoteProtocolError("cut off"),
    ]
)


def test_a_text_gets_its_prediction_and_the_version_that_gave_it() -> None:
    server = Server()
    with server.client() as client:
        assert client.classify("a") == Prediction("a", 1.0, {"a": 1.0}, version=4)

    assert str(server.requests[0].url) == "http://x/news/classify"
    assert "Authorization" not in server.requests[0].headers


def test_a_key_travels_as_a_bearer_token_and_is_not_shown() -> None:
    server = Server([lambda: httpx.Response(401, json={"error": "no such key"})])
    client = server.client(api_key="ts_secret")

    with pytest.raises(RefusedError, match="401: no such key") as refused:
        client.classify("a")
    assert server.requests[0].headers["Authorization"] == "Bearer ts_secret"
    assert "secret" not in f"{client!r} {vars(client)} {refused.value}"


@given(outcomes=st.lists(BUSY, max_size=12))
def test_whatever_is_lost_is_asked_again_until_the_deadline(outcomes: list[Callable[[], Outcome]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = use(patch, Clock())
        server = Server(list(outcomes))
        try:
            server.client(timeout_s=20.0).classify("a")
        except UnavailableError:
            assert clock.now + LONGEST_PAUSE_S + 1 >= 20.0  # it did not give up early
        else:
            assert len(server.requests) == len(outcomes) + 1
        assert clock.now < 20.0
        assert all(pause <= LONGEST_PAUSE_S + 1 for pause in clock.pauses)


@given(outcomes=st.lists(BUSY, max_size=4), texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=200))
def test_many_texts_get_their_answers_in_order_through_every_loss(
    outcomes: list[Callable[[], Outcome]], texts: list[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use(patch, Clock())
        server = Server(list(outcomes))

        assert labels(server.client(timeout_s=1000.0).classify_many(texts)) == texts
        assert [text for batch in server.asked for text in batch] == texts


@given(outcomes=st.lists(BUSY, max_size=4), num_texts=st.integers(0, 150))
def test_the_asynchronous_client_does_the_same(outcomes: list[Callable[[], Outcome]], num_texts: int) -> None:
    texts = [str(number) for number in range(num_texts)]

    async def ask() -> list[str]:
        async with AsyncClient(URL, timeout_s=1000.0, transport=httpx.MockTransport(server)) as client:
            return [prediction.label async for prediction in client.classify_many(texts)]

    with pytest.MonkeyPatch.context() as patch:
        use(patch, Clock())
        server = Server(list(outcomes), max_texts=50)
        assert asyncio.run(ask()) == texts


def test_the_time_to_try_again_is_kept(clock: Clock) -> None:
    later = httpx.Response(429, json={"error": "full"}, headers={"Retry-After": "7"})
    Server([lambda: later, lambda: later]).client().classify("a")

    assert all(7 <= pause <= 7 + LONGEST_PAUSE_S for pause in clock.pauses)
    assert len(clock.pauses) == 2


def test_pauses_grow_and_differ(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.client, "random", SimpleNamespace(uniform=lambda low, high: high))
    Server([lambda: httpx.Response(503)] * 8).client().classify("a")

    assert clock.pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_after_a_lost_connection_it_asks_again_soon(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.client, "random", SimpleNamespace(uniform=lambda low, high: high))
    Server([lambda: httpx.ConnectError("refused")] * 5).client().classify("a")

    assert clock.pauses == [0.25, 0.5, 1.0, 1.0, 1.0]


def test_a_wait_beyond_the_deadline_is_not_waited(clock: Clock) -> None:
    server = Server([lambda: httpx.Response(429, json={"error": "full"}, headers={"Retry-After": "60"})])

    with pytest.raises(UnavailableError, match="asked 1 times; the last time: 429: full"):
        server.client(timeout_s=30.0).classify("a")
    assert clock.now == 0.0


def test_a_connection_that_never_comes_is_the_cause(clock: Clock) -> None:
    server = Server([lambda: httpx.ConnectError("refused")] * 99)

    with pytest.raises(UnavailableError, match="refused") as gone:
        server.client(timeout_s=30.0).classify("a")
    assert isinstance(gone.value.__cause__, httpx.ConnectError)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422, 500])
def test_what_repeating_cannot_mend_is_raised_at_once(clock: Clock, status: int) -> None:
    server = Server([lambda: httpx.Response(status, json={"error": "the server's words"})])

    with pytest.raises(RefusedError, match="the server's words") as refused:
        server.client().classify("a")
    assert (refused.value.status, len(server.requests)) == (status, 1)


def test_a_server_that_takes_fewer_texts_gets_fewer() -> None:
    server = Server(max_texts=5)
    texts = [str(number) for number in range(100)]

    assert labels(server.client().classify_many(texts)) == texts
    assert max(len(batch) for batch in server.asked) <= 5


def test_one_text_that_is_too_large_is_not_cut_in_two() -> None:
    with pytest.raises(RefusedError, match="too many"):
        list(Server(max_texts=0).client().classify_many(["a", "b"]))


@given(st.lists(st.sampled_from(["", "a", "\0" * 50_000, "\U0001f600" * 90_000, "x" * MAX_TEXT_CHARS]), max_size=150))
def test_no_request_is_larger_than_the_server_takes(texts: list[str]) -> None:
    server = Server()

    assert len(list(server.client().classify_many(texts))) == len(texts)
    assert all(len(request.content) <= MAX_BODY_BYTES for request in server.requests)
    assert all(len(batch) <= MAX_TEXTS and sum(map(len, batch)) <= MAX_CHARS for batch in server.asked)


def test_texts_are_asked_for_as_they_are_taken() -> None:
    server = Server()
    found = server.client().classify_many(str(number) for number in range(10 * MAX_TEXTS))

    next(found)
    assert len(server.asked) == 1


def test_half_a_character_is_refused_before_it_is_sent() -> None:
    server = Server()

    with pytest.raises(RefusedError, match="not Unicode: surrogates not allowed"):
        server.client().classify("\ud800")
    assert server.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>a login page"),
        httpx.Response(200, json={"predictions": [], "version": 1}),
        httpx.Response(200, json=[{"label": "a"}]),
        httpx.Response(200, json={"predictions": [{"label": "a"}], "version": 1}),
    ],
    ids=lambda answer: answer.text[:20],
)
def test_an_answer_of_something_else_is_told(answer: httpx.Response) -> None:
    with pytest.raises(AnswerError, match="http://x/news/classify"):
        Server([lambda: answer]).client().classify("a")


def test_the_gateway_understands_it() -> None:
    async def scenario() -> None:
        backend = FakeBackend(version=2)
        async with gateway(backend) as http:
            client = AsyncClient(URL, transport=http._transport)
            found = [prediction async for prediction in client.classify_many([str(number) for number in range(20)])]
            with pytest.raises(RefusedError, match="there is no endpoint 'olds'"):
                await AsyncClient("http://x/olds", transport=http._transport).classify("a")

        assert [prediction.version for prediction in found] == [2] * 20
        assert max(len(texts) for _, _, texts in backend.batches) <= 8  # the endpoint's limit, found out by halving

    run(scenario)


def job(state: str, **more: object) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(200, json={"id": "7-x", "state": state, "texts": 2, **more})


DONE = job("done", version=4, predictions=[{"label": text, "score": 1.0, "scores": {text: 1.0}} for text in "ab"])


def test_texts_are_handed_in_and_their_predictions_fetched(clock: Clock) -> None:
    waiting = lambda: httpx.Response(202, json={"id": "7-x", "state": "waiting", "texts": 2})  # noqa: E731
    server = Server([waiting, job("waiting"), lambda: httpx.ConnectError("refused"), job("running"), DONE])
    client = server.client()

    job_id = client.submit(text for text in "ab")
    assert labels(iter(client.result(job_id))) == ["a", "b"]
    assert json.loads(server.requests[0].content) == {"texts": ["a", "b"]}
    assert [(sent.method, sent.url.path) for sent in server.requests] == [
        ("POST", "/news/jobs"),
        *[("GET", "/news/jobs/7-x")] * 4,
    ]


def test_a_job_that_failed_is_told_in_the_servers_words(clock: Clock) -> None:
    with pytest.raises(JobFailedError, match="version 1 cannot be loaded"):
        Server([job("failed", error="version 1 cannot be loaded")]).client().result("7-x")


def test_a_result_is_waited_for_no_longer_than_was_said_and_not_asked_for_in_haste(clock: Clock) -> None:
    server = Server([job("running")] * 1000)

    with pytest.raises(UnavailableError, match="job 7-x has not ended within 600 s"):
        server.client().result("7-x", timeout_s=600.0)
    assert 600 - LONGEST_PAUSE_S <= clock.now < 600
    assert len(server.requests) < 100


@pytest.mark.parametrize("answer", [[], {"state": "done"}, {"state": "done", "texts": 2, "version": 1}])
def test_what_is_no_job_is_told(answer: object, clock: Clock) -> None:
    with pytest.raises(AnswerError, match="http://x/news/jobs/7-x does not answer as a tuneserve endpoint"):
        Server([lambda: httpx.Response(200, json=answer)]).client().result("7-x")


def test_the_gateway_takes_and_ends_its_jobs() -> None:
    async def scenario() -> None:
        async with gateway(FakeBackend(version=2)) as http:
            client = AsyncClient(URL, transport=http._transport)
            found = await client.result(await client.submit([str(number) for number in range(100)]))
            with pytest.raises(RefusedError, match="404: 'news' has no job '7-x'"):
                await client.result("7-x")
            cancelled = await client.submit(["a"])
            await client.cancel(cancelled)
            with pytest.raises(RefusedError, match=f"404: 'news' has no job '{cancelled}'"):
                await client.result(cancelled)

        assert [prediction.version for prediction in found] == [2] * 100

    run(scenario)


def test_there_is_one_tree_of_errors() -> None:
    assert all(
        issubclass(error, ClientError) for error in (RefusedError, UnavailableError, AnswerError, JobFailedError)
    )


def test_the_file_can_be_copied_because_it_imports_httpx_and_the_standard_library_alone() -> None:
    tree = ast.parse(Path(serve.client.__file__).read_text("utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    assert imported - set(sys.stdlib_module_names) == {"httpx"}
