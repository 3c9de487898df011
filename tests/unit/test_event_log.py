import json
import logging
from pathlib import Path

import pytest

import serve.event_log
from serve.event_log import FILE_NAME, EventLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_an_event_is_one_line_of_json_whatever_it_holds(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "serve")
    log.write("woke", endpoint="a\nb%s\u2028ä", seconds=1.23456, version=None)
    log.write("woke", endpoint="news")
    log.close()

    text = (tmp_path / "serve" / FILE_NAME).read_text("utf-8")
    first, second = (json.loads(line) for line in text.rstrip("\n").split("\n"))
    assert first.pop("time") <= second.pop("time")
    assert (first, second) == (
        {"event": "woke", "endpoint": "a\nb%s\u2028ä", "seconds": 1.235},
        {"event": "woke", "endpoint": "news"},
    )


def test_a_flood_does_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.event_log, "MAX_BYTES", 1_000)
    log = EventLog(tmp_path)
    for number in range(500):
        log.write("request_failed", status=429, number=number)
    log.close()

    files = sorted(tmp_path.iterdir())
    assert len(files) == 1 + serve.event_log.NUM_OLD_FILES
    assert sum(file.stat().st_size for file in files) < 6_000
    assert lines(tmp_path / FILE_NAME)[-1]["number"] == 499


def test_it_is_apart_from_other_logs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = EventLog(tmp_path)
    log.write("woke")
    log.close()
    assert caplog.records == []
