"""Keys: random, kept as digests only, found in constant time, revoked and expired without a restart."""

import json
import math
import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api_keys import LOOK_AGAIN_AFTER_S, KeyRing, create_key, keys_path, read_keys, revoke_key
from common.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    return tmp_path


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_is_recognisable_and_beyond_guessing() -> None:
    keys = [create_key(f"k{number}") for number in range(20)]

    assert all(re.fullmatch(r"ts_[0-9a-f]{12}_[0-9a-f]{48}", key) for key in keys)
    secrets = {key.split("_")[2] for key in keys}
    assert len(secrets) == 20
    assert len(secrets.pop()) * math.log2(16) >= 160


def test_the_file_holds_no_key_and_is_readable_by_its_owner_alone() -> None:
    key = create_key("ci")

    text = keys_path().read_text()
    assert key not in text
    assert key.split("_")[2] not in text
    assert stat.S_IMODE(keys_path().stat().st_mode) == 0o600


def test_a_key_is_found_by_itself_alone() -> None:
    key, other = create_key("ci"), create_key("another")
    ring = KeyRing(keys_path())

    found = ring.find(key)
    assert found is not None
    assert found.name == "ci"
    mixed = f"ts_{key.split('_')[1]}_{other.split('_')[2]}"
    for wrong in (mixed, key[:-1], key + "0", key.upper(), f" {key}", "", "ts__", found.sha256, found.key_id):
        assert ring.find(wrong) is None


@given(presented=st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_nothing_else_opens_anything(presented: str) -> None:
    assert KeyRing(keys_path()).find(presented) is None


def test_a_new_key_and_a_revocation_are_known_after_a_second_without_a_restart() -> None:
    clock = Clock()
    ring = KeyRing(keys_path(), clock)
    assert ring.find("ts_") is None
    key = create_key("ci")
    clock.now += LOOK_AGAIN_AFTER_S
    assert ring.find(key) is not None
    revoke_key("ci")
    clock.now += LOOK_AGAIN_AFTER_S
    assert ring.find(key) is None


def test_the_file_is_not_looked_at_for_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    key = create_key("ci")
    ring = KeyRing(keys_path(), Clock())
    ring.find(key)
    keys_path().unlink()
    assert ring.find(key) is not None


def test_a_key_ends_with_its_time() -> None:
    ring = KeyRing(keys_path())
    future = create_key("future", expires_at=datetime.now(UTC) + timedelta(hours=1))
    past = create_key("past", expires_at=datetime.now(UTC) - timedelta(seconds=1))

    assert ring.find(future) is not None
    assert ring.find(past) is None


@pytest.mark.parametrize("text", ["", "{", '{"keys": [{"name": "x"}]}', '{"keys": {}}', "[]"])
def test_keys_that_cannot_be_read_open_nothing_and_are_not_overwritten(text: str) -> None:
    key = create_key("ci")
    keys_path().write_text(text)

    with pytest.raises(InputError, match=r"api_keys\.json does not hold API keys .*; restore it, or remove it"):
        KeyRing(keys_path()).find(key)
    with pytest.raises(InputError, match="does not hold API keys"):
        create_key("another")
    assert keys_path().read_text() == text


def test_a_mended_file_is_read_again() -> None:
    key = create_key("ci")
    good = keys_path().read_text()
    clock = Clock()
    ring = KeyRing(keys_path(), clock)
    keys_path().write_text("{")
    with pytest.raises(InputError):
        ring.find(key)
    keys_path().write_text(good)
    clock.now += LOOK_AGAIN_AFTER_S
    assert ring.find(key) is not None


def test_scopes() -> None:
    create_key("all")
    create_key("two", ["news", "spam"])
    everything, two = read_keys()

    assert [everything.opens(name) for name in ("news", "healthz")] == [True, True]
    assert [two.opens(name) for name in ("news", "spam", "other", "*", "")] == [True, True, False, False, False]


@pytest.mark.parametrize("name", ["", "a b", "-x", "x/y", "x\n", "ä", "x" * 64])
def test_a_name_that_would_not_survive_a_terminal_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot name a key"):
        create_key(name)
    assert not keys_path().exists()


def test_an_endpoint_that_no_recipe_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="'News' is not the name of an endpoint"):
        create_key("ci", ["News"])


def test_a_name_is_given_once_and_only_what_is_there_is_revoked() -> None:
    key = create_key("ci")
    with pytest.raises(InputError, match=r"there is a key 'ci' already; .*tuneserve keys revoke ci"):
        create_key("ci")
    with pytest.raises(InputError, match="there is no key 'c'; there are: ci"):
        revoke_key("c")
    assert KeyRing(keys_path()).find(key) is not None
    assert len(json.loads(keys_path().read_text())["keys"]) == 1
