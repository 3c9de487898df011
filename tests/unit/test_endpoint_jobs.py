"""`/NAME/jobs`: what is handed in is answered later, once, for whoever handed it in, and within bounds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

import common.api_keys
import serve.endpoints
from common.api_keys import KeyRing, create_key, keys_path, revoke_key
from common.errors import ServingError
from common.request_log_settings import RequestLog
from serve import job, job_routes, jobs, leftover
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment
from serve.event_log import EventLog
from serve.gateway_replica import assemble
from tests.fake_backend import GOOD, REPLICAS_ANSWER, SPEC, FakeBackend

Scenario = Callable[[httpx.AsyncClient], Awaitable[None]]


class Echo(FakeBackend):
    """Gives each text itself as its label."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        answers = await super().classify(name, served, texts)
        return [{**answer, "label": text} for answer, text in zip(answers, texts, strict=True)]


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    monkeypatch.setattr(common.api_keys, "LOOK_AGAIN_AFTER_S", 0.0)
    monkeypatch.setattr(jobs, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(leftover, "LOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr(leftover, "QUIET_S", 0.0)


def serving(scenario: Scenario, backend: FakeBackend | None = None, *, on_loopback: bool = True) -> None:
    async def within() -> None:
        async with gateway(backend or Echo(), on_loopback=on_loopback) as client:
            await scenario(client)

    asyncio.run(within())


@asynccontextmanager
async def gateway(backend: FakeBackend, *, on_loopback: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    app = assemble(backend, KeyRing(keys_path()), EventLog(keys_path().parent / "logs"), on_loopback=on_loopback)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        yield client


async def submit(client: httpx.AsyncClient, texts: list[str], **request: Any) -> str:
    """The path of a new job."""
    answer = await client.post("/news/jobs", json={"texts": texts}, **request)
    assert answer.status_code == 202, answer.text
    return str(answer.url.join(answer.headers["Location"]).path)


async def ended(client: httpx.AsyncClient, path: str, **request: Any) -> dict[str, Any]:
    """The job, once it has ended."""
    while True:
        found: dict[str, Any] = (await client.get(path, **request)).json()
        if found["state"] in ("done", "failed"):
            return found
        await asyncio.sleep(0)


def test_far_more_texts_than_may_wait_are_answered_each_at_its_place() -> None:
    texts = [f"text {number}" for number in range(100 * SPEC.max_queued_requests)]

    async def scenario(client: httpx.AsyncClient) -> None:
        found = await ended(client, await submit(client, texts))

        assert (found["state"], found["texts"], found["answered"]) == ("done", len(texts), len(texts))
        assert found["predictions"] == [{**GOOD, "label": text} for text in texts]
        assert (found["model"], found["version"], found["error"]) == ("headlines", 1, None)

    serving(scenario)


def test_a_job_is_taken_at_once_and_tells_how_far_it_is() -> None:
    backend = Echo()
    backend.is_open.clear()

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a"] * 40)
        found = (await client.get(path)).json()
        assert (found["answered"], found["expires_at"]) == (0, None)
        assert found["state"] in ("waiting", "running")
        assert "predictions" not in found
        while not backend.batches:
            await asyncio.sleep(0)
        assert (await client.get("/news/healthz")).json()["state"] == "waking"

        backend.is_open.set()
        assert (await ended(client, path))["answered"] == 40

    serving(scenario, backend)


def test_one_version_answers_the_whole_job_wherever_the_alias_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve.endpoints, "LOOK_AT_ALIASES_EVERY_S", 0.001)
    backend = Echo()

    async def scenario(client: httpx.AsyncClient) -> None:
        backend.is_open.clear()
        path = await submit(client, ["a"] * 640)  # many more batches than wait at a time
        while not backend.batches:
            await asyncio.sleep(0)
        backend.version = 2
        while (await client.get("/news/healthz")).json()["version"] != 2:
            await asyncio.sleep(0)
        backend.is_open.set()
        found = await ended(client, path)

        assert found["version"] == 1
        assert {version for _, version, _ in backend.batches} == {1}

    serving(scenario, backend)


def test_a_batch_whose_replicas_die_is_sent_again_and_nothing_is_lost() -> None:
    class Dying(Echo):
        num_deaths = 3

        async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
            if self.num_deaths:
                self.num_deaths -= 1
                raise ServingError("4 replicas were lost one after another")
            return await super().classify(name, served, texts)

    texts = [f"text {number}" for number in range(70)]

    async def scenario(client: httpx.AsyncClient) -> None:
        found = await ended(client, await submit(client, texts))
        assert [prediction["label"] for prediction in found["predictions"]] == texts

    serving(scenario, Dying())


def test_a_job_that_cannot_be_answered_fails_and_says_why() -> None:
    backend = FakeBackend(replica_error=ServingError("version 1 cannot be loaded"))

    async def scenario(client: httpx.AsyncClient) -> None:
        found = await ended(client, await submit(client, ["a"] * 40))
        assert (found["state"], found["error"]) == ("failed", "version 1 cannot be loaded")
        assert "predictions" not in found
        assert len(backend.batches) <= jobs.BATCHES_AHEAD * (1 + len(jobs.PAUSES_S))

    serving(scenario, backend)


def test_what_nobody_foresaw_is_told_to_the_log_alone() -> None:
    backend = FakeBackend(replica_error=ZeroDivisionError("secret"))

    async def scenario(client: httpx.AsyncClient) -> None:
        found = await ended(client, await submit(client, ["a"]))
        assert (found["state"], found["error"]) == ("failed", jobs.FAILED)

    serving(scenario, backend)


def test_a_score_that_is_no_number_fails_the_job_by_the_texts_number() -> None:
    backend = FakeBackend(answers_of={1: {**REPLICAS_ANSWER, "score": float("nan")}})

    async def scenario(client: httpx.AsyncClient) -> None:
        found = await ended(client, await submit(client, ["a"]))
        assert "score for text 0 is not a number" in found["error"]

    serving(scenario, backend)


def test_a_removed_endpoint_fails_its_jobs() -> None:
    backend = Echo()
    backend.is_open.clear()

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a"] * 64)
        while not backend.batches:
            await asyncio.sleep(0)
        kept, backend.deployed = backend.deployed, {}
        while (await client.get("/news/healthz")).status_code != 404:
            await asyncio.sleep(0.01)
        backend.is_open.set()
        backend.deployed = kept
        while (await client.get("/news/healthz")).status_code != 200:
            await asyncio.sleep(0.01)

        assert (await ended(client, path))["error"] == "endpoint 'news' was removed"

    serving(scenario, backend)


def test_a_key_sees_its_own_jobs_alone_also_a_later_one_of_its_name() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        mine, other, elsewhere = (
            {"headers": {"Authorization": f"Bearer {create_key(name, scope)}"}}
            for name, scope in (("mine", ["news"]), ("other", ["*"]), ("elsewhere", ["spam"]))
        )
        path = await submit(client, ["a"], **mine)
        assert (await ended(client, path, **mine))["state"] == "done"

        assert (await client.get(path, **other)).status_code == 404
        assert (await client.delete(path, **other)).status_code == 404
        assert (await client.get(path, **elsewhere)).status_code == 403
        assert (await client.get(path)).status_code == 401
        assert (await client.post("/news/jobs", json={"texts": ["a"]})).status_code == 401
        assert (await client.get(path, **mine)).status_code == 200
        revoke_key("mine")
        renewed = {"headers": {"Authorization": f"Bearer {create_key('mine')}"}}
        assert (await client.get(path, **renewed)).status_code == 404

    serving(scenario, on_loopback=False)


def test_a_job_is_its_endpoints_alone() -> None:
    backend = Echo({"news": Deployment(SPEC, 1, 0), "spam": Deployment(SPEC, 1, 0)})

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a"])
        assert (await client.get(path.replace("news", "spam"))).status_code == 404

    serving(scenario, backend)


def test_a_job_is_forgotten_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RETAIN_S", 0.0)
    monkeypatch.setattr(job, "RETAIN_S", 0.0)

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a"])
        while (answer := await client.get(path)).status_code == 200:
            await asyncio.sleep(0)
        assert answer.status_code == 404
        assert "a job is kept for 0 s after its end" in answer.json()["error"]

    serving(scenario)


def test_after_a_new_gateway_a_job_is_said_to_have_ended_with_the_old_one() -> None:
    async def within() -> None:
        async with gateway(Echo()) as client:
            path = await submit(client, ["a"])
        async with gateway(Echo()) as client:
            answer = await client.get(path)
        assert answer.status_code == 404
        assert "jobs end with the gateway" in answer.json()["error"]
        assert "hand the texts in again" in answer.json()["error"]

    asyncio.run(within())


def test_a_deleted_job_is_not_gone_on_with_and_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_JOBS_OF_ONE", 1)
    backend = Echo()
    backend.is_open.clear()

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a"] * 640)
        while not backend.batches:
            await asyncio.sleep(0)
        assert (await client.delete(path)).status_code == 204
        assert (await client.get(path)).status_code == 404
        backend.is_open.set()
        assert (await ended(client, await submit(client, ["b"])))["state"] == "done"
        assert sum(len(texts) for _, _, texts in backend.batches if "a" in texts) <= leftover.BATCH_SIZE

    serving(scenario, backend)


@pytest.mark.parametrize(
    ("bound", "value"), [("MAX_JOBS_OF_ONE", 2), ("MAX_JOBS", 2), ("MAX_BYTES_OF_ONE", 1000), ("MAX_BYTES", 1000)]
)
def test_no_more_jobs_or_bytes_are_kept_than_may_be(bound: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, bound, value)
    monkeypatch.setattr(job, "EXPECTED_BYTES", 400)

    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            path = await submit(client, ["a"])
        refused = await client.post("/news/jobs", json={"texts": ["a"]})
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert list(refused.json()) == ["error"]

        await client.delete(path)
        assert (await client.post("/news/jobs", json={"texts": ["a"]})).status_code == 202

    serving(scenario)


@pytest.mark.parametrize("error", [None, "it failed"])
def test_a_job_that_has_ended_holds_no_text(error: str | None) -> None:
    ended = job.Job("7-x", "news", None, ["a" * 1000])
    ended.take(0, [REPLICAS_ANSWER])
    ended.end(error)

    assert not ended.texts
    assert ended.num_bytes < 100


def test_a_jobs_room_is_given_back_when_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "MAX_BYTES_OF_ONE", 100_000)

    async def scenario(client: httpx.AsyncClient) -> None:
        for _ in range(5):
            assert (await ended(client, await submit(client, ["a" * 50_000])))["state"] == "done"

    serving(scenario, FakeBackend())


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({}, 422, "texts: expected a list of strings and not null"),
        ({"texts": []}, 422, "send at least one"),
        ({"texts": ["a", 1]}, 422, "texts[1]: expected a string"),
        ({"texts": ["a"], "callback": "x"}, 422, "'callback' is not known here; known: texts"),
        ({"texts": ["a"] * (jobs.MAX_TEXTS + 1)}, 413, "send them in several jobs"),
        ({"texts": ["a" * 100_001]}, 413, "text 0 has 100001 characters"),
        ({"texts": ["a" * job_routes.MAX_JOB_BODY_BYTES]}, 413, "the body is larger than"),
    ],
)
def test_what_is_no_job_is_refused_and_wakes_nothing(body: dict[str, Any], status: int, problem: str) -> None:
    backend = Echo()

    async def scenario(client: httpx.AsyncClient) -> None:
        answer = await client.post("/news/jobs", json=body)
        assert answer.status_code == status
        assert problem in answer.json()["error"]
        assert backend.batches == []

    serving(scenario, backend)


def test_the_largest_job_is_taken() -> None:
    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["x" * 350] * jobs.MAX_TEXTS)
        assert (await client.delete(path)).status_code == 204

    serving(scenario)


def test_a_jobs_texts_are_in_the_request_log(tmp_path: Path) -> None:
    spec = replace(SPEC, storage=str(tmp_path / "storage"), request_log=RequestLog())

    async def scenario(client: httpx.AsyncClient) -> None:
        path = await submit(client, ["a", "b"])
        while not (told := (await client.get("/news/requests")).json())["requests"]:
            await asyncio.sleep(0.001)
        assert {row["text"] for row in told["requests"]} == {"a", "b"}
        assert {row["request_id"] for row in told["requests"]} == {path.rpartition("/")[2]}

    serving(scenario, Echo({"news": Deployment(spec, 1, 0)}))
