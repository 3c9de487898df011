"""A row for each text, with what the log may keep of it and nothing else."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.request_log_settings import TextMode
from serve.request_table import SCHEMA, from_table, protection, rows, table
from tests.answered import AT, answered


def logged(*texts: str | tuple[str, str], mode: TextMode = "plain", storage: str = "/storage", **changes: object):
    return list(from_table(table(list(rows(answered(*texts, **changes), mode, protection(mode, storage))))))


def test_every_text_of_a_request_has_a_row() -> None:
    first, second = logged("a", ("b", "c"))

    assert first == {
        "time": AT,
        "request_id": "mine",
        "endpoint": "news",
        "model": "headlines",
        "version": 3,
        "protocol": "classify",
        "status": 200,
        "latency_ms": 12.5,
        "text_mode": "plain",
        "text": "a",
        "text_pair": None,
        "label": "good",
        "score": 0.75,
        "scores": {"bad": 0.25, "good": 0.75},
        "truncated": False,
    }
    assert list(first) == SCHEMA.names
    assert (second["text"], second["text_pair"]) == ("b", "c")


def test_a_refused_request_has_its_texts_and_no_answers() -> None:
    (row,) = logged("a", answers=(), status=504, version=None)

    assert (row["text"], row["status"], row["version"]) == ("a", 504, None)
    assert [row[name] for name in ("label", "score", "scores", "truncated")] == [None] * 4


@pytest.mark.parametrize("mode", ["redacted", "hashed"])
def test_both_texts_of_a_pair_are_hidden(mode: TextMode, tmp_path: Path) -> None:
    (row,) = logged(("mail jane@example.org", "or call +49 89 1234567"), mode=mode, storage=str(tmp_path))

    assert "jane" not in row["text"]
    assert "1234567" not in row["text_pair"]
    assert row["text_mode"] == mode


def test_hashed_texts_can_be_counted(tmp_path: Path) -> None:
    first, second, third = (row["text"] for row in logged("a", "b", "a", mode="hashed", storage=str(tmp_path)))

    assert first == third != second


@given(st.lists(st.text(), min_size=1), st.timedeltas(timedelta(0), timedelta(days=365)))
def test_whatever_text_comes_back_as_it_was_written(texts: list[str], later: timedelta) -> None:
    found = logged(*texts, at=AT + later)

    assert [row["text"] for row in found] == texts
    assert abs(found[0]["time"] - (AT + later)) < timedelta(milliseconds=1)
