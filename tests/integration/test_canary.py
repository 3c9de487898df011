"""A candidate beside the champion on real Ray Serve, under constant load: a bad one goes, a good one takes over."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray

from common.cluster import Connection
from common.errors import RegistryError
from common.ray_head import free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from serve.application import deploy_endpoint, remove_endpoint, start_gateway
from serve.candidate import plan_canary
from serve.ray_serve import serve_details
from tests.tiny_model import register

NAME = "tried"
DEADLINE_S = 60.0
RECIPE = Recipe.model_validate({"name": NAME, "data": {"source": "-"}, "model": {"base": "-"}})


class World:
    """An endpoint whose champion is version 1; version 2 names the labels the other way round, version 3 is right."""

    def __init__(self, url: str, registry: ModelRegistry, folder: Path) -> None:
        self.url = url
        self.registry = registry
        self.folder = folder

    def deploy(self, candidate: int | None = None) -> None:
        places = {"tracking_uri": self.registry.tracking_uri, "storage": str(self.folder)}
        canary = None
        if candidate is not None:
            self.registry.set_alias(NAME, "candidate", candidate)
            options = {"candidate": "candidate", "min_requests": 20, "min_agreement": 0.8}
            canary = plan_canary(RECIPE, mode="canary", percent=50, **options, **places)  # type: ignore[arg-type]
        deploy_endpoint(RECIPE, code_uri=None, canary=canary, **places)

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/healthz", trust_env=False, timeout=DEADLINE_S).json()
        return found

    def ended(self) -> dict[str, Any]:
        """How the canary ended, once it has and the version that answers is the one that won."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            health = self.health()
            canary: dict[str, Any] = health["canary"]
            winner = canary["candidate" if canary["state"] == "finished" else "champion"]["version"]
            if canary["state"] != "running" and health["version"] == winner:
                return canary
            assert time.monotonic() < deadline, canary
            time.sleep(0.1)

    def wait_until_nothing_is_tried(self) -> None:
        """Returns once no version carries the alias `candidate`, which goes a moment after the requests do."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                tried = self.registry.by_alias(NAME, "candidate")
            except RegistryError:
                return
            assert time.monotonic() < deadline, tried
            time.sleep(0.1)

    def loaded(self) -> set[int]:
        """The versions in the memory of the endpoint's replicas."""
        details = serve_details()
        assert details is not None
        versions: set[int] = set()
        for replica in details["applications"][NAME]["deployments"]["Model"]["replicas"]:
            actor = ray.get_actor(replica["actor_name"], namespace="serve")
            versions.update(ray.get(actor.__ray_call__.remote(_loaded)))
        return versions

    @contextmanager
    def load(self) -> Iterator[list[tuple[int, str]]]:
        """Two clients that ask without a pause; yields status and version of each answer."""
        seen: list[tuple[int, str]] = []
        done = threading.Event()

        def ask() -> None:
            with httpx.Client(trust_env=False, timeout=DEADLINE_S) as client:
                while not done.is_set():
                    answer = client.post(f"{self.url}/classify", json={"text": "good"})
                    seen.append((answer.status_code, answer.headers["X-Model-Version"]))

        clients = [threading.Thread(target=ask) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            yield seen
        finally:
            done.set()
            for client in clients:
                client.join()


def _loaded(replica: Any) -> list[int]:
    model = replica._replica_impl._user_callable_wrapper._callable
    return [version for _, version in model._engines._engines]


@pytest.fixture
def world(cluster: Connection, tmp_path: Path) -> Iterator[World]:
    gateway = start_gateway("127.0.0.1", free_port())
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db")
    for number in (1, 2, 3):
        register(registry.tracking_uri, NAME, tmp_path / str(number), swapped=number == 2)
    registry.set_alias(NAME, "champion", 1)
    world = World(f"{gateway}/{NAME}", registry, tmp_path)
    world.deploy()
    yield world
    remove_endpoint(NAME)


def test_a_bad_candidate_is_rolled_back_and_a_good_one_takes_over_and_no_request_fails(world: World) -> None:
    with world.load() as seen:
        world.deploy(candidate=2)
        bad = world.ended()
        assert world.registry.by_alias(NAME, "champion").version == 1
        world.wait_until_nothing_is_tried()

        world.deploy(candidate=3)
        good = world.ended()
        deadline = time.monotonic() + DEADLINE_S
        while world.loaded() != {3}:
            assert time.monotonic() < deadline, world.loaded()
            time.sleep(0.2)

    assert (bad["state"], bad["agreement"]) == ("rolled back", 0.0)
    assert (good["state"], good["agreement"]) == ("finished", 1.0)
    assert good["compared"] >= 20
    assert world.registry.by_alias(NAME, "champion").version == 3
    assert world.registry.rollback(NAME, "champion") == (3, 1)
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"1", "2", "3"}
