"""Of two commands on one recipe in a store, the second is refused, and a dead one stands in nobody's way."""

import itertools
import os
import threading
from pathlib import Path

import pytest

from common import lease as module
from common.errors import InputError
from common.lease import lease
from common.storage import read_json, write_json


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / ".small.lock")


def test_the_second_is_refused_until_the_first_has_ended(uri: str, tmp_path: Path) -> None:
    with (
        lease(uri, "'small'"),
        pytest.raises(InputError, match=rf"process {os.getpid()} on .* is at work on 'small'; wait"),
        lease(uri, "'small'"),
    ):
        pass
    with lease(uri, "'small'"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_this_machine_that_was_killed_holds_nothing(uri: str) -> None:
    with lease(uri, "'small'"):
        held = read_json(uri)
    write_json(uri, {**held, "started": 1.0})  # another process had the number
    with lease(uri, "'small'"):
        pass


@pytest.mark.parametrize(("age_s", "is_free"), [(100, False), (130, True)])
def test_a_process_elsewhere_that_was_not_heard_of_for_two_minutes_holds_nothing(
    uri: str, age_s: int, is_free: bool
) -> None:
    write_json(uri, {"id": "1", "host": "elsewhere", "pid": 1, "started": 1.0})
    written_at = os.stat(uri).st_mtime - age_s
    os.utime(uri, (written_at, written_at))
    if is_free:
        with lease(uri, "'small'"):
            assert read_json(uri)["host"] != "elsewhere"
    else:
        with pytest.raises(InputError, match=r"try again in (19|20) s"), lease(uri, "'small'"):
            pass


def test_a_holder_renews_its_lease_although_the_store_refuses_at_times(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_INTERVAL_S", 0.001)
    renewed, writes = threading.Event(), itertools.count(1)

    def write(uri: str, document: object) -> None:
        number = next(writes)
        if number == 2:
            raise OSError("away")
        write_json(uri, document)
        if number == 3:
            renewed.set()

    monkeypatch.setattr(module, "write_json", write)
    with lease(uri, "'small'"):
        assert renewed.wait(10)


def test_a_holder_that_was_taken_for_dead_is_interrupted(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_INTERVAL_S", 0.001)
    interrupted = threading.Event()
    monkeypatch.setattr(module._thread, "interrupt_main", interrupted.set)
    others = {"id": "another", "host": "elsewhere", "pid": 1, "started": 1.0}
    with lease(uri, "'small'"):
        while not interrupted.wait(0.001):
            write_json(uri, others)
    assert read_json(uri) == others
