import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray
import ray.exceptions
import ray.serve.exceptions

import serve.backend
from common.errors import ModelError, ServingError, TrackingError
from serve import shared_specs
from serve.backend import (
    NUM_ATTEMPTS,
    NUM_KEPT_BY_STANDBY,
    PAUSES_S,
    STANDBY,
    ServeBackend,
    all_endpoints,
    endpoints_in,
)
from serve.batching import ServedVersion
from serve.endpoints import Deployment
from serve.pool import POOL, PoolSpec
from tests.fake_backend import SPEC
from tests.fake_store import FakeStore
from tests.tiny_model import build_engine

SERVED = ServedVersion(3, "/models/3/onnx")


class FakeResponse:
    """Serve's DeploymentResponse: awaited once, or cancelled."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.is_cancelled = False

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeHandle:
    """A deployment handle that answers with the given outcomes, one after another."""

    def __init__(self, *outcomes: Any, num_replicas: int = 1) -> None:
        self.responses = [FakeResponse(outcome) for outcome in outcomes]
        self.calls: list[tuple[Any, ...]] = []
        self.num_replicas = num_replicas
        self.classify = self
        self.models: list[str] = []

    def options(self, *, multiplexed_model_id: str) -> "FakeHandle":
        self.models.append(multiplexed_model_id)
        return self

    def remote(self, *arguments: Any) -> FakeResponse:
        self.calls.append(arguments)
        return self.responses[len(self.calls) - 1]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServeBackend:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: None)
    monkeypatch.setattr(serve.backend, "_handle", lambda name: FakeHandle())
    monkeypatch.setattr(serve.backend, "_num_replicas", lambda handle: handle.num_replicas)
    return ServeBackend()


def answer(backend: ServeBackend, handle: FakeHandle, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(backend, "_handle", lambda name: handle)
    return asyncio.run(backend.classify("news", SERVED, ["a"]))


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []

    async def sleep(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return taken


WRAPPED = ray.exceptions.RayTaskError("classify", "Traceback ...", ray.exceptions.ActorDiedError())


@pytest.mark.parametrize("lost", [ray.exceptions.ActorDiedError(), ray.exceptions.RayActorError(), WRAPPED])
def test_a_batch_is_sent_again_when_its_replica_dies(
    lost: Exception, backend: ServeBackend, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = FakeHandle(*[lost] * len(PAUSES_S), [{"label": "good"}])

    assert answer(backend, handle, monkeypatch) == [{"label": "good"}]
    assert handle.calls == [("/models/3/onnx", 3, ["a"])] * NUM_ATTEMPTS
    assert pauses == list(PAUSES_S)


def test_a_batch_that_costs_one_replica_after_another_is_given_up(
    backend: ServeBackend, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match=f"{NUM_ATTEMPTS} replicas of 'news' were lost"):
        answer(backend, FakeHandle(*[ray.exceptions.RayActorError()] * NUM_ATTEMPTS), monkeypatch)


def test_what_serve_refuses_is_not_asked_again(backend: ServeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(ray.serve.exceptions.RayServeException("no such deployment"))

    with pytest.raises(ServingError, match="'news' cannot be reached: no such deployment; see `tuneserve status`"):
        answer(backend, handle, monkeypatch)
    assert len(handle.calls) == 1


def test_what_a_replica_raises_is_told_without_its_traceback(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = ModelError("version 3 cannot be loaded")
    error = ray.exceptions.RayTaskError("classify", "Traceback (most recent call last): ...", cause)

    with pytest.raises(ServingError) as raised:
        answer(backend, FakeHandle(error.as_instanceof_cause()), monkeypatch)

    assert str(raised.value) == f"'news' does not answer: {cause}"


def test_a_versions_settings_are_read_once_and_a_failure_is_tried_again(backend: ServeBackend, tmp_path: Path) -> None:
    served = ServedVersion(3, str(tmp_path))
    with pytest.raises(ServingError, match=f"version 3 at {tmp_path} cannot be read"):
        asyncio.run(backend.settings(served))

    build_engine(tmp_path)
    assert asyncio.run(backend.settings(served)).labels == ("bad", "good")
    (tmp_path / "labels.json").unlink()
    assert asyncio.run(backend.settings(served)).labels == ("bad", "good")


def test_a_versions_card_is_read_once_and_a_failure_is_tried_again(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Registry:
        cards: ClassVar[list[Any]] = [TrackingError("http://away refuses"), "# news", "# changed"]

        def by_version(self, model: str, version: int) -> tuple[str, int]:
            return model, version

        def card(self, version: tuple[str, int]) -> str:
            assert version == (SPEC.model, 3)
            found = self.cards.pop(0)
            if isinstance(found, Exception):
                raise found
            return str(found)

    monkeypatch.setattr(backend, "_registry", lambda tracking_uri: Registry())
    with pytest.raises(ServingError, match=r"card of version 3 of 'headlines' cannot be read: http://away refuses"):
        asyncio.run(backend.card(SPEC, SERVED))

    assert [asyncio.run(backend.card(SPEC, SERVED)) for _ in range(2)] == ["# news"] * 2


def test_a_batch_that_nobody_waits_for_is_cancelled(backend: ServeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(None)
    monkeypatch.setattr(backend, "_handle", lambda name: handle)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await backend.classify("news", SERVED, ["a"])

    asyncio.run(leave())
    assert handle.responses[0].is_cancelled


async def woken(backend: ServeBackend) -> None:
    while backend._waking:
        await asyncio.sleep(0)


class Preparing:
    """The handle of an endpoint that wakes when it is told to."""

    def __init__(self, num_replicas: int = 0) -> None:
        self.num_replicas = num_replicas
        self.prepared: list[tuple[Any, ...]] = []
        self.is_awake = asyncio.Event()
        self.classified = FakeHandle(*[["own"]] * 9)
        self.classify = self.classified
        self.prepare = self

    async def remote(self, *arguments: Any) -> None:
        self.prepared.append(arguments)
        await self.is_awake.wait()
        self.num_replicas = 1


def test_the_standby_answers_until_the_endpoint_has_a_replica_with_its_model(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        handles: dict[str, Any] = {"news": Preparing(), STANDBY: FakeHandle(*[["standby"]] * 9)}
        monkeypatch.setattr(backend, "_handle", handles.__getitem__)
        for _ in range(2):
            assert await backend.classify("news", SERVED, ["a"]) == ["standby"]
        handles["news"].num_replicas = 1  # it has no model yet
        assert await backend.classify("news", SERVED, ["a"]) == ["standby"]
        await asyncio.sleep(0)  # the wake runs beside the answers
        assert handles["news"].prepared == [("/models/3/onnx", 3)]
        handles["news"].is_awake.set()
        await woken(backend)
        assert await backend.classify("news", SERVED, ["a"]) == ["own"]
        handles["news"].num_replicas = 0  # asleep again
        assert await backend.classify("news", SERVED, ["a"]) == ["standby"]
        await woken(backend)
        assert len(handles["news"].prepared) == 2

    asyncio.run(scenario())


def test_a_call_whose_last_replica_died_goes_to_the_standby_and_not_into_serves_queue(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, standby = FakeHandle(None), FakeHandle(["standby"])
    handles = {"news": own, STANDBY: standby}
    monkeypatch.setattr(backend, "_handle", handles.__getitem__)
    monkeypatch.setattr(serve.backend, "LOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr(backend, "_wake", lambda application, name, served: asyncio.sleep(0))

    async def scenario() -> None:
        asked = asyncio.create_task(backend.classify("news", SERVED, ["a"]))
        while not own.calls:
            await asyncio.sleep(0)
        own.num_replicas = 0
        assert await asked == ["standby"]

    asyncio.run(scenario())
    assert own.responses[0].is_cancelled


def test_a_gateway_that_takes_anothers_place_begins_with_the_versions_that_one_knew(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Registry:
        def by_alias(self, model: str, alias: str) -> Any:
            asked.append(model)
            return SimpleNamespace(version=len(asked))

        def fetchable_uri(self, version: Any, storage: str, *, with_weights: bool) -> str:
            return f"/models/{version.version}"

    monkeypatch.setattr(serve.backend, "_registry", lambda uri: Registry())
    first, second = ServeBackend(), ServeBackend()

    assert asyncio.run(first.resolve(SPEC)) == ServedVersion(1, "/models/1")
    assert asyncio.run(second.resolve(SPEC)) == ServedVersion(1, "/models/1")
    assert asked == [SPEC.model]
    assert asyncio.run(second.resolve(SPEC)) == ServedVersion(2, "/models/2")


def test_without_a_standby_the_endpoint_wakes_by_itself(backend: ServeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    handles: dict[str, Any] = {"news": Preparing(), STANDBY: FakeHandle(num_replicas=0)}
    monkeypatch.setattr(backend, "_handle", handles.__getitem__)
    assert asyncio.run(backend.classify("news", SERVED, ["a"])) == ["own"]


@pytest.mark.parametrize(
    ("states", "target", "expected"),
    [
        ([], 0, (0, 0, "asleep")),
        ([], 1, (0, 1, "waking")),  # decided, and not yet begun
        (["STARTING"], 1, (0, 1, "waking")),
        (["RUNNING"], 1, (1, 0, "awake")),
        (["RUNNING", "STARTING"], 2, (1, 1, "awake")),
        (["STOPPING"], 0, (0, 0, "asleep")),
    ],
)
def test_the_replicas_tell_how_awake_an_endpoint_is(
    states: list[str], target: int, expected: tuple[int, int, str]
) -> None:
    deployment = {
        "deployment_config": {"user_config": SPEC.as_user_config()},
        "replicas": [{"state": state} for state in states],
        "target_num_replicas": target,
    }
    foreign = {"deployment_config": {}, "replicas": [], "target_num_replicas": 0}
    details = {
        "applications": {
            "news": {"status": "RUNNING", "deployments": {"Model": deployment}},
            "leaving": {"status": "DELETING", "deployments": {"Model": deployment}},
            "theirs": {"status": "RUNNING", "deployments": {"Model": foreign}},
            "_gateway": {"status": "RUNNING", "deployments": {"Gateway": foreign}},
        }
    }

    found = endpoints_in(details)

    num_running, num_starting, state = expected
    assert found == {"news": Deployment(SPEC, num_running, num_starting)}
    assert found["news"].state == state


SHARED = replace(SPEC, pool="shared")


def deployment(user_config: dict[str, Any], *states: str) -> dict[str, Any]:
    replicas = [{"state": state} for state in states]
    found = {"deployment_config": {"user_config": user_config}, "replicas": replicas, "target_num_replicas": 0}
    return {"status": "RUNNING", "deployments": {"Model": found}}


def test_an_endpoint_on_the_pool_has_its_replicas_and_batches_cut_for_them() -> None:
    pool = PoolSpec(max_replicas=5)
    details = {
        "applications": {
            "own": deployment(SPEC.as_user_config()),
            "changing": deployment(SPEC.as_user_config()),
            POOL: deployment(pool.as_user_config(), "RUNNING", "STARTING"),
        }
    }

    found = all_endpoints(details, {"news": SHARED, "changing": SHARED})

    on_pool = Deployment(replace(SHARED, max_replicas=5, target_ongoing_requests=2.0), 1, 1)
    assert found == {"own": Deployment(SPEC, 0, 0), "changing": on_pool, "news": on_pool}


def test_a_shared_endpoints_batches_go_to_the_pool_with_their_model_and_follow_it_elsewhere(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = {name: FakeHandle(*[[name]] * 9) for name in ("news", POOL, STANDBY)}
    details: dict[str, Any] = {"applications": {POOL: deployment(PoolSpec().as_user_config(), "RUNNING")}}

    async def told() -> dict[str, Any]:
        return details

    monkeypatch.setattr(shared_specs, "internal_kv", FakeStore())
    monkeypatch.setattr(backend, "_handle", handles.__getitem__)
    backend._controller = SimpleNamespace(get_serve_instance_details=SimpleNamespace(remote=told))

    async def scenario() -> None:
        shared_specs.put("news", SHARED)
        assert (await backend.deployments())["news"].state == "awake"
        assert await backend.classify("news", SERVED, ["a"]) == [POOL]
        assert handles[POOL].models == ["/models/3/onnx@3"]
        shared_specs.remove("news")
        details["applications"]["news"] = deployment(SPEC.as_user_config())
        assert (await backend.deployments())["news"].spec == SPEC
        assert await backend.classify("news", SERVED, ["a"]) == ["news"]

    asyncio.run(scenario())


def test_an_endpoint_that_leaves_the_pool_while_the_gateway_looks_is_there_all_the_same(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    monkeypatch.setattr(shared_specs, "internal_kv", store)
    shared_specs.put("news", SHARED)
    details: dict[str, Any] = {"applications": {"news": deployment(SPEC.as_user_config())}}

    async def leave_then_tell() -> dict[str, Any]:
        shared_specs.remove("news")
        return details

    backend._controller = SimpleNamespace(get_serve_instance_details=SimpleNamespace(remote=leave_then_tell))
    assert "news" in asyncio.run(backend.deployments())


class PreparingPool(Preparing):
    """A pool that wakes when it is told to."""

    def options(self, *, multiplexed_model_id: str) -> "PreparingPool":
        return self


def test_more_shared_endpoints_than_the_standby_holds_wait_for_the_pool(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(number) for number in range(NUM_KEPT_BY_STANDBY + 2)]

    async def scenario() -> None:
        handles: dict[str, Any] = {POOL: PreparingPool(), STANDBY: FakeHandle(*[["standby"]] * 9)}
        monkeypatch.setattr(backend, "_handle", handles.__getitem__)
        backend._shared = frozenset(names)
        answers = [await backend.classify(name, SERVED, ["a"]) for name in (*names, names[0])]
        assert answers == [["standby"]] * NUM_KEPT_BY_STANDBY + [["own"]] * 2 + [["standby"]]

    asyncio.run(scenario())


def test_the_standby_answers_for_a_shared_endpoint_until_the_pool_has_its_model(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        handles: dict[str, Any] = {POOL: PreparingPool(), STANDBY: FakeHandle(*[["standby"]] * 9)}
        monkeypatch.setattr(backend, "_handle", handles.__getitem__)
        backend._shared = frozenset({"news", "mail"})
        assert await backend.classify("news", SERVED, ["a"]) == ["standby"]
        await asyncio.sleep(0)
        handles[POOL].num_replicas = 1
        assert await backend.classify("news", SERVED, ["a"]) == ["standby"]  # that has no model yet
        assert await backend.classify("mail", SERVED, ["a"]) == ["own"]  # loads it there as well as anywhere
        handles[POOL].is_awake.set()
        await woken(backend)
        assert await backend.classify("news", SERVED, ["a"]) == ["own"]

    asyncio.run(scenario())
