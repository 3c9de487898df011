"""The log keeps what it promises, off the event loop, and no request fails for it."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.request_log_settings import RequestLog, log_location
from serve import request_log, request_table
from serve.endpoints import Deployment, Endpoints, EndpointSpec
from serve.request_files import RequestFiles
from serve.request_log import EndpointLog, RequestLogs
from serve.request_table import from_table
from tests.answered import AT, answered
from tests.fake_backend import SPEC, FakeBackend


class Metrics:
    """Texts by what became of them."""

    def __init__(self) -> None:
        self.counts = {"written": 0, "dropped": 0}

    def logged(self, endpoint: str, outcome: str, num_texts: int) -> None:
        assert endpoint == "news"
        self.counts[outcome] += num_texts


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def open_log(tmp_path: Path, metrics: Metrics) -> Iterator[Callable[..., EndpointLog]]:
    opened: list[EndpointLog] = []

    def open_(**settings: Any) -> EndpointLog:
        log = EndpointLog(
            "news",
            str(tmp_path),
            RequestLog(**settings),
            lambda outcome, number: metrics.logged("news", outcome, number),
        )
        opened.append(log)
        return log

    yield open_
    for log in opened:
        log.close(10)


def written(storage: Path) -> list[dict[str, Any]]:
    files = RequestFiles(log_location(str(storage), "news"))
    return list(from_table(files.read(AT.replace(year=2000))))


def test_what_waits_is_written_when_the_gateway_ends(
    open_log: Callable[..., EndpointLog], metrics: Metrics, tmp_path: Path
) -> None:
    log = open_log(retain_days=36_500)
    log.put(answered("a", "b"))
    log.put(answered("c", at=AT.replace(day=26)))

    log.close(10)

    assert [row["text"] for row in written(tmp_path)] == ["a", "b", "c"]
    assert sorted(path.name for path in (tmp_path / "request_log" / "news").iterdir()) == [
        "date=2026-11-25",
        "date=2026-11-26",
    ]
    assert metrics.counts == {"written": 3, "dropped": 0}


@pytest.mark.parametrize("mode", ["redacted", "hashed"])
def test_neither_files_nor_memory_hold_what_is_to_be_hidden(
    mode: str, open_log: Callable[..., EndpointLog], tmp_path: Path
) -> None:
    log = open_log(texts=mode, retain_days=36_500)
    log.put(answered("jane@example.org", ("is", "jane@example.org")))
    log.close(10)

    assert len(written(tmp_path)) == 2
    assert "jane" not in str(written(tmp_path)) + str(log.told())
    assert all(b"jane" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_without_the_key_texts_are_dropped_and_never_kept_as_they_are(
    open_log: Callable[..., EndpointLog], metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "request_log").mkdir()
    (tmp_path / "request_log" / ".digest_key").write_bytes(b"damaged")
    log = open_log(texts="hashed")
    log.put(answered("secret"))
    log.put(answered("secret"))
    log.close(10)

    assert metrics.counts == {"written": 0, "dropped": 2}
    assert log.told()["dropped"] == 2
    assert log.told()["requests"] == []
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_a_storage_that_cannot_be_written_is_told_once_and_counted(
    open_log: Callable[..., EndpointLog], metrics: Metrics, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "request_log").write_text("a file where a folder must be")
    log = open_log()
    log.put(answered("a", "b"))
    log.close(10)

    assert metrics.counts == {"written": 0, "dropped": 2}
    assert len([record for record in caplog.records if "cannot be kept" in record.message]) == 1


def test_what_could_not_be_written_is_written_once_the_storage_is_back(
    open_log: Callable[..., EndpointLog], metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "FLUSH_EVERY_S", 0.0)
    write, failed = RequestFiles.write, threading.Event()

    def away_at_first(self: RequestFiles, *arguments: Any) -> int:
        if not failed.is_set():
            failed.set()
            raise OSError("away")
        return write(self, *arguments)

    monkeypatch.setattr(RequestFiles, "write", away_at_first)
    log = open_log(retain_days=36_500)
    log.put(answered("a"))
    assert failed.wait(10)
    log.close(10)

    assert [row["text"] for row in written(tmp_path)] == ["a"]
    assert metrics.counts == {"written": 1, "dropped": 0}


def test_a_store_that_hangs_costs_bounded_memory_and_no_time(
    open_log: Callable[..., EndpointLog], metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_log, "MAX_HELD_CHARS", 4 * request_log.CHARS_BESIDE_TEXT)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        hangs.set()
        goes_on.wait(10)

    monkeypatch.setattr(RequestFiles, "prune", hang)
    log = open_log(retain_days=36_500)
    assert hangs.wait(10)
    for _ in range(5):
        log.put(answered("a"))
    assert metrics.counts["dropped"] == 2  # a text takes more than its share of the room
    goes_on.set()
    log.close(10)

    assert metrics.counts == {"written": 3, "dropped": 2}
    assert log._held_chars == 0


def test_nothing_is_held_for_what_was_written(open_log: Callable[..., EndpointLog]) -> None:
    log = open_log(texts="redacted", retain_days=36_500)
    log.put(answered("123456", "a" * 1000, ("b@c", "d")))
    log.close(10)

    assert log._held_chars == 0


def test_old_rows_go_also_where_no_request_comes(tmp_path: Path, open_log: Callable[..., EndpointLog]) -> None:
    old = answered("old", at=AT.replace(year=2020))
    found = list(request_table.rows(old, "plain", str))
    RequestFiles(log_location(str(tmp_path), "news")).write("2020-11-25", request_table.table(found))

    open_log().close(10)

    assert written(tmp_path) == []


def test_the_last_requests_are_told_newest_first_with_counts_of_all(open_log: Callable[..., EndpointLog]) -> None:
    log = open_log(retain_days=36_500)
    for number in range(150):
        log.put(answered(f"text {number}"))
    log.put(answered("x" * 10_000, status=504, answers=()))
    log.close(10)

    told = log.told()

    assert len(told["requests"]) == 100
    assert len(told["requests"][0]["text"]) == 500
    assert told["requests"][1]["text"] == "text 149"
    assert told["requests"][1]["time"] == "2026-11-25T12:00:00.000+00:00"
    assert told["counts"] == {"label": {"good": 150}, "version": {"3": 151}, "status": {"200": 150, "504": 1}}


def test_only_endpoints_that_keep_a_log_have_one(tmp_path: Path, metrics: Metrics) -> None:
    async def scenario() -> None:
        keeping = replace(SPEC, storage=str(tmp_path), request_log=RequestLog(retain_days=36_500))
        backend = FakeBackend({"news": Deployment(keeping, 0, 0), "spam": Deployment(SPEC, 0, 0)})
        endpoints, logs = Endpoints(backend), RequestLogs(metrics)  # type: ignore[arg-type]
        await endpoints.look_at_deployments()
        following = asyncio.create_task(logs.follow(endpoints))
        await asyncio.sleep(0)

        assert logs.told(endpoints["news"]) is not None
        assert logs.told(endpoints["spam"]) is None
        logs.answered(answered("a", storage=str(tmp_path), log=keeping.request_log))
        logs.answered(answered("not kept"))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())
    assert [row["text"] for row in written(tmp_path)] == ["a"]


def test_other_settings_begin_another_log(tmp_path: Path, metrics: Metrics) -> None:
    logs = RequestLogs(metrics)  # type: ignore[arg-type]
    for mode in ("plain", "redacted"):
        settings = RequestLog.model_validate({"texts": mode, "retain_days": 36_500})
        logs.answered(answered("code 123456", storage=str(tmp_path), log=settings))
        log = logs._logs["news"]
        log.close(10)

    assert sorted((row["text_mode"], row["text"]) for row in written(tmp_path)) == [
        ("plain", "code 123456"),
        ("redacted", "code [number]"),
    ]


@pytest.mark.parametrize("settings", [None, RequestLog(texts="hashed", retain_days=7)])
def test_a_deployed_endpoint_remembers_how_its_log_is_kept(settings: RequestLog | None) -> None:
    spec = replace(SPEC, request_log=settings)

    assert EndpointSpec.from_user_config(json.loads(json.dumps(spec.as_user_config()))) == spec


def test_a_deployment_with_a_log_of_another_kind_is_not_ours() -> None:
    assert EndpointSpec.from_user_config({**SPEC.as_user_config(), "request_log": {"kept": "on paper"}}) is None
