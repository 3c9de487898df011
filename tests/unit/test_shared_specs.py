"""What is told of the endpoints on the shared pool, over a store that is faked."""

from dataclasses import replace

import pytest

from serve import shared_specs
from serve.shared_specs import PREFIX, SharedSpecs
from tests.fake_backend import SPEC
from tests.fake_store import FakeStore

SHARED = replace(SPEC, pool="shared")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    store = FakeStore()
    monkeypatch.setattr(shared_specs, "internal_kv", store)
    return store


def test_what_was_put_is_there_until_it_is_removed(store: FakeStore) -> None:
    shared_specs.put("news", SHARED)
    shared_specs.put("mail", replace(SHARED, model="mail"))
    shared_specs.put("news", replace(SHARED, max_queued_requests=9))
    shared_specs.remove("mail")
    shared_specs.remove("nowhere")

    assert shared_specs.shared_specs() == {"news": replace(SHARED, max_queued_requests=9)}


def test_what_cannot_be_read_is_left_out(store: FakeStore) -> None:
    shared_specs.put("news", SHARED)
    store.values[PREFIX + b"of-tomorrow"] = b'{"unknown": 1}'

    assert shared_specs.shared_specs() == {"news": SHARED}


def test_who_looks_often_reads_all_of_them_only_after_a_change(store: FakeStore) -> None:
    seen = SharedSpecs()
    assert seen.read() == {}
    shared_specs.put("news", SHARED)
    assert [seen.read(), seen.read(), seen.read()] == [{"news": SHARED}] * 3
    assert store.num_listed == 1
    shared_specs.remove("news")
    assert seen.read() == {}
    assert store.num_listed == 2


def test_a_change_that_comes_while_they_are_read_is_seen_by_the_next_look(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_specs.put("news", SHARED)
    seen = SharedSpecs()
    found = store.internal_kv_multi_get

    def change_meanwhile(keys: list[bytes], namespace: bytes) -> dict[bytes, bytes]:
        values = found(keys, namespace)
        monkeypatch.setattr(store, "internal_kv_multi_get", found)
        shared_specs.put("mail", SHARED)
        return values

    monkeypatch.setattr(store, "internal_kv_multi_get", change_meanwhile)

    assert list(seen.read()) == ["news"]
    assert list(seen.read()) == ["news", "mail"]
