"""The log's files: whole or not there, each row once, the old and the too many deleted."""

import os
import resource
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import request_files
from serve.request_files import Part, RequestFiles, whole
from serve.request_table import protection, rows, table
from tests.answered import AT, answered

DAY = f"{AT:%Y-%m-%d}"
BEGIN = AT - timedelta(days=365)
PLAIN = protection("plain", "")


def log_of(folder: Path, merged_parts: int = 60) -> RequestFiles:
    return RequestFiles(str(folder / "log"), merged_parts)


def one(text: str, at: datetime = AT) -> pa.Table:
    return table(list(rows(answered(text, at=at), "plain", PLAIN)))


def texts(files: RequestFiles, since: datetime = BEGIN, **wanted: object) -> list[str]:
    return list(files.read(since, **wanted)["text"].to_pylist())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "log").rglob("*.parquet"))


def test_rows_come_back_in_the_order_of_their_requests(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    for minute in (2, 0, 1):
        files.write(DAY, one(str(minute), AT + timedelta(minutes=minute)))

    assert texts(files) == ["0", "1", "2"]
    assert texts(files, AT + timedelta(minutes=1)) == ["1", "2"]
    assert texts(files, newest=2) == ["1", "2"]
    assert texts(files, newest=1, where=pc.field("text") != "2") == ["1"]


def test_of_equal_moments_no_more_than_asked_for_come(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    for text in "abc":
        files.write(DAY, one(text))

    assert len(texts(files, newest=2)) == 2


def test_where_nothing_was_logged_there_is_nothing(tmp_path: Path) -> None:
    files = log_of(tmp_path)

    assert not files.exists()
    assert texts(files) == []


def test_small_files_become_one_and_no_row_is_lost_or_doubled(tmp_path: Path) -> None:
    files = log_of(tmp_path, merged_parts=3)
    for number in range(7):
        files.write(DAY, one(str(number), AT + timedelta(seconds=number)))

    assert texts(files) == list("0123456")
    assert [name[14:] for name in names(tmp_path)] == [
        "00000000-00000002.parquet",
        "00000003-00000005.parquet",
        "00000006.parquet",
    ]


def test_a_merge_that_was_cut_off_doubles_no_row(tmp_path: Path) -> None:
    files = log_of(tmp_path, merged_parts=2)
    files.write(DAY, one("a"))
    (path,) = (tmp_path / "log").rglob("*.parquet")
    content = path.read_bytes()
    files.write(DAY, one("b", AT + timedelta(seconds=1)))

    path.write_bytes(content)  # as if the writer had ended before it deleted this one

    assert len(names(tmp_path)) == 2
    assert texts(files) == ["a", "b"]


def test_a_merge_that_fails_loses_nothing_and_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = log_of(tmp_path, merged_parts=2)
    files.write(DAY, one("a"))
    with monkeypatch.context() as patch:
        patch.setattr(request_files.pq, "read_table", lambda *_, **__: (_ for _ in ()).throw(OSError("away")))
        files.write(DAY, one("b", AT + timedelta(seconds=1)))
    assert texts(files) == ["a", "b"]

    files.write(DAY, one("c", AT + timedelta(seconds=2)))

    assert texts(files) == ["a", "b", "c"]
    assert len(names(tmp_path)) == 1


def test_a_write_that_fails_half_way_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # the hundredth byte is the disk's last
    try:
        with pytest.raises(OSError, match="too large"):
            files.write(DAY, one("a"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in (tmp_path / "log").rglob("*") if path.is_file()] == []

    files.write(DAY, one("a"))
    assert texts(files) == ["a"]


def test_half_a_file_is_never_read(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    files.write(DAY, one("a"))
    (path,) = (tmp_path / "log").rglob("*.parquet")
    content = path.read_bytes()
    path.with_name(f".{path.name}.0a1b2c3d.part").write_bytes(content[: len(content) // 2])  # a killed writer's
    path.with_name("part-0a1b2c3d-00000000.parquet").write_bytes(b"")  # a machine lost its power

    assert texts(files) == ["a"]


def test_a_reader_whose_files_are_merged_under_it_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = log_of(tmp_path, merged_parts=2)
    files.write(DAY, one("a"))
    reader = log_of(tmp_path)
    paths = reader._paths

    def merged_meanwhile(since: datetime) -> list[str]:
        found = paths(since)
        monkeypatch.setattr(reader, "_paths", paths)
        files.write(DAY, one("b", AT + timedelta(seconds=1)))
        return found

    monkeypatch.setattr(reader, "_paths", merged_meanwhile)

    assert texts(reader) == ["a", "b"]


def test_days_that_are_too_far_back_are_deleted_with_what_a_killed_writer_left(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    for days in range(4):
        at = AT - timedelta(days=days)
        files.write(f"{at:%Y-%m-%d}", one(str(days), at))
    old = tmp_path / "log" / f"date={AT - timedelta(days=3):%Y-%m-%d}"
    (old / ".part-x.part").write_bytes(b"half")

    files.prune(AT, retain_days=2, retain_bytes=10**9)

    assert texts(files) == ["2", "1", "0"]
    assert not old.exists()


def test_the_oldest_files_are_deleted_until_the_rest_is_small_enough(tmp_path: Path) -> None:
    files = log_of(tmp_path)
    sizes = []
    for number in range(4):
        sizes.append(files.write(DAY, one(str(number), AT + timedelta(seconds=number))))
    for number, path in enumerate(sorted((tmp_path / "log").rglob("*.parquet"))):
        os.utime(path, (1000 + number, 1000 + number))

    files.prune(AT, retain_days=1, retain_bytes=sum(sizes[2:]))
    assert len(names(tmp_path)) == 2
    assert [name[14:22] for name in names(tmp_path)] == ["00000002", "00000003"]

    files.prune(AT, retain_days=1, retain_bytes=sum(sizes[2:]) - 1)
    assert [name[14:22] for name in names(tmp_path)] == ["00000003"]


def test_what_is_not_the_logs_own_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "log" / "notes" / "mine.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")

    log_of(tmp_path).prune(AT, retain_days=1, retain_bytes=0)

    assert other.read_text() == "mine"


def part(writer: str, first: int, last: int) -> Part:
    return Part(f"{writer}-{first}-{last}", date(2026, 1, 1), writer, first, last, datetime(2026, 1, 1, tzinfo=UTC), 1)


@given(st.sets(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(1, 5)), max_size=8), st.booleans())
def test_every_number_is_read_from_exactly_one_file(merged: set[tuple[str, int, int]], singles_are_left: bool) -> None:
    """Merged ranges of one writer never overlap in part: a range holds another or is apart from it."""
    apart: list[Part] = []
    for writer, first, length in sorted(merged):
        if not any(other.writer == writer and other.last >= first for other in apart):
            apart.append(part(writer, first, first + length - 1))
    singles = [
        part(range_.writer, number, number) for range_ in apart for number in range(range_.first, range_.last + 1)
    ]

    read = list(whole([*(singles if singles_are_left else ()), *apart]))

    held = [(found.writer, number) for found in read for number in range(found.first, found.last + 1)]
    assert sorted(held) == sorted((single.writer, single.first) for single in singles)
