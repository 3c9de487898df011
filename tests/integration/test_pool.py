"""Endpoints on the shared pool, on real Ray Serve: each answers with its own model, and the pool sleeps and wakes."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from common.cluster import Connection
from common.ray_head import free_port
from common.recipe import Recipe
from common.registry import ModelRegistry
from serve.application import deploy_endpoint, endpoints, remove_endpoint, set_pool, start_gateway
from serve.pool import POOL, PoolSpec
from serve.ray_serve import serve_details
from tests.tiny_model import register

DEADLINE_S = 60.0
NAMES = ("straight", "turned", "third")
"""Of these the last two are adapters on one base model."""
ROOM_FOR_ONE_GB = 1e-6


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    folder = tmp_path_factory.mktemp("pooled")
    registry = ModelRegistry(f"sqlite:///{folder}/mlflow.db")
    for name in NAMES:
        register(registry.tracking_uri, name, folder / name, swapped=name == "turned", adapter=name != "straight")
        registry.set_alias(name, "champion", 1)
    return registry


@pytest.fixture(scope="module")
def client(cluster: Connection, registry: ModelRegistry) -> Iterator[httpx.Client]:
    """Asks the gateway; all names are deployed on a pool that sleeps soon."""
    url = start_gateway("127.0.0.1", free_port())
    set_pool(PoolSpec(max_replicas=1, downscale_to_zero_delay_s=1.0))
    for name in NAMES:
        deploy(registry, name, pool="shared")
    with httpx.Client(base_url=url, timeout=DEADLINE_S, trust_env=False) as client:
        yield client
    for name in NAMES:
        remove_endpoint(name)


def deploy(registry: ModelRegistry, name: str, pool: str) -> None:
    recipe = Recipe.model_validate(
        {"name": name, "data": {"source": "-"}, "model": {"base": "-"}, "serve": {"pool": pool}}
    )
    storage = str(Path(registry.tracking_uri.removeprefix("sqlite:///")).parent)
    deploy_endpoint(recipe, tracking_uri=registry.tracking_uri, storage=storage, code_uri=None)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def states() -> set[str]:
    return {found.state for found in endpoints() if found.name in NAMES}


def labels(client: httpx.Client) -> list[str]:
    return [client.post(f"/{name}/classify", json={"text": "good"}).json()["label"] for name in NAMES]


def test_each_endpoint_answers_with_its_own_model_and_the_pool_wakes_and_sleeps(client: httpx.Client) -> None:
    details = serve_details()
    assert details is not None
    assert POOL in details["applications"]
    assert not set(NAMES) & details["applications"].keys()
    wait_until(lambda: states() == {"asleep"})

    assert labels(client) == ["good", "bad", "good"]
    wait_until(lambda: states() == {"awake"})
    assert labels(client) == ["good", "bad", "good"]
    set_pool(PoolSpec(max_replicas=1, downscale_to_zero_delay_s=1.0, memory_gb=ROOM_FOR_ONE_GB))
    assert labels(client) * 2 == ["good", "bad", "good"] * 2
    wait_until(lambda: states() == {"asleep"})


def test_an_endpoint_changes_to_replicas_of_its_own_and_back_without_a_failed_request(
    client: httpx.Client, registry: ModelRegistry
) -> None:
    answers: set[tuple[int, str]] = set()
    done = threading.Event()

    def keep_asking() -> None:
        while not done.is_set():
            response = client.post("/turned/classify", json={"text": "good"})
            answers.add((response.status_code, response.text if response.is_error else response.json()["label"]))

    asking = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        for pool in ("own", "shared"):
            deploy(registry, "turned", pool)
            (found,) = (found for found in endpoints() if found.name == "turned")
            assert found.pool == pool
            wait_until(lambda: {f.state for f in endpoints() if f.name == "turned"} == {"awake"})
    finally:
        done.set()
        for thread in asking:
            thread.join()

    assert answers == {(200, "bad")}
    details = serve_details()
    assert details is not None
    assert "turned" not in details["applications"]
