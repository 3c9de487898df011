"""One process at a time holds the lock on a model's aliases, and a dead one stands in nobody's way."""

import json
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from common import registry_lock as module
from common.lease import this_process
from common.registry import ModelRegistry
from common.registry_lock import registry_lock
from common.tracking import open_client, sqlite_uri
from tests.tiny_model import register

MODEL = "shared"
LOCK = f"tuneserve.lock.{MODEL}"


@pytest.fixture
def client(tmp_path: Path) -> MlflowClient:
    return open_client(sqlite_uri(str(tmp_path)))


def test_what_a_killed_process_of_this_machine_held_is_free(client: MlflowClient) -> None:
    killed = {**this_process(), "started": 1.0}  # another process had the number
    client.create_registered_model(LOCK, {"tuneserve.holder": json.dumps(killed)})

    with registry_lock(client, MODEL, LOCK):
        pass

    assert [model.name for model in client.search_registered_models()] == []


ELSEWHERE = {"tuneserve.holder": json.dumps({"id": "1", "host": "elsewhere", "pid": 1, "started": 1.0})}


@pytest.mark.parametrize("tags", [ELSEWHERE, {}], ids=["elsewhere", "it does not say whose"])
def test_a_process_elsewhere_is_waited_for_until_it_has_been_seen_too_long(
    tags: dict[str, str], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model(LOCK, tags)
    now = iter(range(0, 1000, 25))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    waits: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waits.append)

    with registry_lock(client, MODEL, LOCK):
        assert waits


def test_a_lock_that_another_process_took_over_is_left_to_it(client: MlflowClient) -> None:
    theirs = json.dumps({"id": "1", "host": "elsewhere", "pid": 1, "started": 1.0})
    with registry_lock(client, MODEL, LOCK):
        client.set_registered_model_tag(LOCK, "tuneserve.holder", theirs)

    assert client.get_registered_model(LOCK).tags["tuneserve.holder"] == theirs


def test_of_two_that_move_an_alias_at_once_the_second_replaces_what_the_first_set(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = ModelRegistry(client.tracking_uri)
    for _ in range(3):
        register(registry.tracking_uri, MODEL, tmp_path / "model")
    registry.set_alias(MODEL, "champion", 1)
    waits_or_has_moved = threading.Event()
    monkeypatch.setattr(module.time, "sleep", lambda _: waits_or_has_moved.set())

    def move_too() -> None:
        ModelRegistry(registry.tracking_uri).set_alias(MODEL, "champion", 3)
        waits_or_has_moved.set()

    second = threading.Thread(target=move_too)
    move = MlflowClient.set_registered_model_alias

    def move_with_another(own: MlflowClient, name: str, alias: str, version: str) -> None:
        if version == "2" and second.ident is None:
            second.start()
            assert waits_or_has_moved.wait(30)
        move(own, name, alias, version)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", move_with_another)
    registry.set_alias(MODEL, "champion", 2)
    second.join()

    assert [registry.rollback(MODEL, "champion") for _ in range(2)] == [(3, 2), (2, 1)]
