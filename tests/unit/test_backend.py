import asyncio
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.exceptions

from common.errors import ModelError, ServingError
from serve.backend import ServeBackend, endpoints_in
from serve.batching import ServedVersion
from serve.endpoints import Deployment, EndpointSpec
from tests.tiny_model import build_engine

SERVED = ServedVersion(3, "/models/3/onnx")
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

    def __init__(self, *outcomes: Any) -> None:
        self.responses = [FakeResponse(outcome) for outcome in outcomes]
        self.calls: list[tuple[Any, ...]] = []
        self.classify = self

    def remote(self, *arguments: Any) -> FakeResponse:
        self.calls.append(arguments)
        return self.responses[len(self.calls) - 1]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ServeBackend:
    monkeypatch.setattr(ray, "get_actor", lambda name, namespace: None)
    return ServeBackend()


def answer(backend: ServeBackend, handle: FakeHandle, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(backend, "_handle", lambda name: handle)
    return asyncio.run(backend.classify("news", SERVED, ["a"]))


def test_a_batch_is_sent_again_when_its_replica_dies(backend: ServeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(ray.exceptions.RayActorError(), ray.exceptions.RayActorError(), [{"label": "good"}])

    assert answer(backend, handle, monkeypatch) == [{"label": "good"}]
    assert handle.calls == [("/models/3/onnx", 3, ["a"])] * 3


def test_a_batch_that_costs_one_replica_after_another_is_given_up(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ServingError, match="3 replicas of 'news' were lost"):
        answer(backend, FakeHandle(*[ray.exceptions.RayActorError()] * 3), monkeypatch)


def test_what_a_replica_raises_is_told_without_its_traceback(
    backend: ServeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    cause = ModelError("version 3 of 'headlines' cannot be loaded")
    error = ray.exceptions.RayTaskError("classify", "Traceback (most recent call last): ...", cause)

    with pytest.raises(ServingError) as raised:
        answer(backend, FakeHandle(error.as_instanceof_cause()), monkeypatch)

    assert str(raised.value) == str(cause)


def test_a_versions_settings_are_read_once_and_a_failure_is_tried_again(backend: ServeBackend, tmp_path: Path) -> None:
    served = ServedVersion(3, str(tmp_path))
    with pytest.raises(ServingError, match=f"version 3 at {tmp_path} cannot be read"):
        asyncio.run(backend.settings(served))

    build_engine(tmp_path)
    assert asyncio.run(backend.settings(served)).labels == ("bad", "good")
    (tmp_path / "labels.json").unlink()
    assert asyncio.run(backend.settings(served)).labels == ("bad", "good")


def test_a_batch_that_nobody_waits_for_is_cancelled(backend: ServeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(None)
    monkeypatch.setattr(backend, "_handle", lambda name: handle)

    async def leave() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await backend.classify("news", SERVED, ["a"])

    asyncio.run(leave())
    assert handle.responses[0].is_cancelled


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
