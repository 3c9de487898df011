"""What `requests` and `replay` say of a log in the storage, and what they refuse."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.request_log_settings import TextMode, log_location
from scripts import logged_requests, replay
from scripts.cli import main
from scripts.logged_requests import moment
from serve.request_files import RequestFiles
from serve.request_table import protection, rows, table
from tests.answered import answer, answered
from tests.fake_registry import Asked, fake_registry

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TUNESERVE_STORAGE", str(tmp_path / "storage"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., None]:
    """Logs a request that came some minutes ago."""
    storage = str(tmp_path / "storage")
    files = RequestFiles(log_location(storage, "news"))

    def add(*texts: str, minutes_ago: float = 5, mode: TextMode = "plain", **changes: Any) -> None:
        seen = answered(*texts, at=NOW - timedelta(minutes=minutes_ago), **changes)
        files.write(f"{seen.at:%Y-%m-%d}", table(list(rows(seen, mode, protection(mode, storage)))))

    return add


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """What a registry was asked for whose models call `good` what holds that word."""
    registry, asked = fake_registry(tmp_path / "storage")
    monkeypatch.setattr(replay, "ModelRegistry", registry)
    return asked


def run(*arguments: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Any, str]:
    """Exit code, JSON result and people's output."""
    with pytest.raises(SystemExit) as ending:
        main([*arguments, "--json"], standalone_mode=False)
    out, err = capfd.readouterr()
    return int(ending.value.code or 0), json.loads(out) if out else None, err


def test_the_newest_texts_are_shown_and_all_are_counted(
    log: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    log("old", minutes_ago=90)
    log("first\nof two lines", "second", minutes_ago=3)
    log("third", minutes_ago=2, answers=[answer("bad")], version=4)
    log("refused", minutes_ago=1, answers=(), status=429)

    code, result, err = run("requests", "news", "--since", "1h", "--limit", "2", capfd=capfd)

    assert code == 0
    assert [row["text"] for row in result["requests"]] == ["refused", "third"]
    assert result["rows"] == 4
    assert result["counts"] == {
        "label": {"good": 2, "bad": 1},
        "version": {"3": 3, "4": 1},
        "status": {"200": 3, "429": 1},
    }
    assert "4 texts since" in err
    assert "by label: good 2, bad 1" in err


def test_a_text_takes_one_line_whatever_it_holds(log: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    log("two\nlines " + "x" * 500)

    _, _, err = run("requests", "news", capfd=capfd)

    (line,) = [line for line in err.splitlines() if "two" in line]
    assert line.endswith("xxx...")
    assert "two lines" in line


def test_one_label_can_be_asked_for(log: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    log("a", "b", answers=[answer("good"), answer("bad")])

    _, result, _ = run("requests", "news", "--label", "bad", capfd=capfd)

    assert [row["text"] for row in result["requests"]] == ["b"]
    assert result["counts"]["label"] == {"bad": 1}


@pytest.mark.parametrize("words", [("requests", "news"), ("replay", "news", "--version", "2")])
def test_where_there_is_no_log_the_way_to_one_is_said(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(*words, capfd=capfd)

    assert code == 2
    assert f"there is no request log of 'news' in {tmp_path}/storage" in err
    assert "`request_log: {}`" in err


def test_a_candidate_is_compared_text_by_text(
    log: Callable[..., None], asked: Asked, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log("good", "bad", "bad bad bad", answers=[answer("good"), answer("bad"), answer("good", 0.9)])
    log("bad", answers=[answer("good", 0.6)], minutes_ago=2)
    log("never answered", answers=(), status=504)
    out = tmp_path / "new" / "out.parquet"

    code, result, err = run("replay", "news", "--version", "2", "--out", str(out), capfd=capfd)

    assert code == 0
    assert asked == [("headlines", 2)]  # the model of the log, not the endpoint's name
    assert (result["model"], result["version"], result["rows"], result["agreement"]) == ("headlines", 2, 4, 0.5)
    assert [(row["text"], row["label"], row["candidate_label"]) for row in result["disagreements"]] == [
        ("bad bad bad", "good", "bad"),  # where both were sure comes first
        ("bad", "good", "bad"),
    ]
    assert result["shifts"] == [{"from": "good", "to": "bad", "count": 2}]
    assert "agrees with 50.0% of 4 answers" in err
    assert "good -> bad: 2" in err
    written = pq.read_table(out)
    assert written["agrees"].to_pylist() == [True, True, False, False]
    assert written["candidate_label"].to_pylist() == ["good", "bad", "bad", "bad"]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_an_alias_names_the_candidate_too_and_the_newest_texts_are_taken(
    log: Callable[..., None], asked: Asked, capfd: pytest.CaptureFixture[str]
) -> None:
    log("good", minutes_ago=2)
    log("bad", minutes_ago=1)

    _, result, _ = run("replay", "news", "--alias", "candidate", "--limit", "1", capfd=capfd)

    assert asked == [("headlines", "candidate")]
    assert (result["version"], result["rows"], result["agreement"]) == (7, 1, 0.0)


def test_redacted_texts_can_be_replayed_and_that_is_said(
    log: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    log("good 123456", mode="redacted")

    code, result, err = run("replay", "news", "--version", "2", capfd=capfd)

    assert (code, result["rows"]) == (0, 1)
    assert "logged redacted" in err


def test_digests_cannot_be_replayed(log: Callable[..., None], capfd: pytest.CaptureFixture[str]) -> None:
    log("good", mode="hashed")

    code, _, err = run("replay", "news", "--version", "2", capfd=capfd)

    assert code == 2
    assert "logged as digests (serve.request_log.texts: hashed)" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--version", "2", "--since", "1m"), "name an earlier --since"),
        ((), "either --version N or --alias ALIAS"),
        (("--version", "2", "--alias", "candidate"), "either --version N or --alias ALIAS"),
        (("--version", "2", "--out", "out.csv"), "--out out.csv: name a Parquet file"),
        (("--version", "2", "--since", "yesterday"), "--since 'yesterday' is no time"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_a_way_out(
    words: tuple[str, ...], said: str, log: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    log("good")

    code, _, err = run("replay", "news", *words, capfd=capfd)

    assert code == 2
    assert said in err


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("10s", timedelta(seconds=10)),
        ("30m", timedelta(minutes=30)),
        ("1h", timedelta(hours=1)),
        ("7d", timedelta(days=7)),
        ("2026-11-25", timedelta(days=1, hours=12)),
        ("2026-11-26T13:00+01:00", timedelta(0)),
    ],
)
def test_a_time_is_an_age_or_a_date(text: str, ago: timedelta) -> None:
    now = datetime(2026, 11, 26, 12, tzinfo=UTC)

    assert moment(text, now) == now - ago


@given(st.text())
def test_whatever_stands_for_a_time_is_read_or_refused(text: str) -> None:
    with suppress(InputError):
        assert moment(text, NOW).tzinfo is UTC


def test_the_one_line_of_a_pair_holds_both() -> None:
    assert logged_requests.one_line("a", "b") == "a | b"
