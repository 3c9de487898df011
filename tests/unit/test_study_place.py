"""A study is where its storage is: another machine finds it there."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import StorageError
from common.storage import read_bytes, write_bytes
from tune import study_place
from tune.study_place import STUDY_FILE, StudyCopy, fetch_study, kept_in, study_file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def remote() -> str:
    """A sweep's folder in a store."""
    return f"memory://test_study_place/{uuid.uuid4().hex}/sweep-1"


def here(folder: str, content: bytes) -> Path:
    path = study_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_study_is_beside_the_trials_unless_the_storage_cannot_append(tmp_path: Path) -> None:
    assert study_file(str(tmp_path / "sweep-1")) == tmp_path / "sweep-1" / STUDY_FILE
    assert study_file((tmp_path / "sweep-1").as_uri()) == tmp_path / "sweep-1" / STUDY_FILE
    elsewhere = study_file("s3://bucket/runs/sweep-1")
    assert elsewhere.is_relative_to(tmp_path / "cache" / "sweeps")
    assert elsewhere != study_file("s3://another/runs/sweep-1")


def test_a_study_of_another_machine_is_fetched(remote: str) -> None:
    write_bytes(f"{remote}/{STUDY_FILE}", b"1\n2\n")
    assert fetch_study(remote).read_bytes() == b"1\n2\n"


@pytest.mark.parametrize(
    ("copy", "file", "expected"),
    [
        pytest.param(b"1\n", b"1\n2\n3", b"1\n2\n3", id="its driver is on this machine, and ahead of the copy"),
        pytest.param(b"1\n2\n", b"1\n", b"1\n2\n", id="it went on elsewhere"),
        pytest.param(b"1\n5\n", b"1\n2\n3\n", b"1\n5\n", id="it went on elsewhere without the last lines of here"),
        pytest.param(None, b"1\n", b"1\n", id="not copied yet"),
    ],
)
def test_of_the_file_here_and_its_copy_the_one_that_was_written_last_counts(
    remote: str, copy: bytes | None, file: bytes, expected: bytes
) -> None:
    here(remote, file)
    if copy is not None:
        write_bytes(f"{remote}/{STUDY_FILE}", copy)
    assert fetch_study(remote).read_bytes() == expected


def test_a_study_is_copied_before_its_sweep_begins_and_when_it_has_ended(remote: str) -> None:
    path = here(remote, b"1\n")
    with kept_in(remote):
        assert read_bytes(f"{remote}/{STUDY_FILE}") == b"1\n"
        path.write_bytes(b"1\n2\nhalf a li")
    assert read_bytes(f"{remote}/{STUDY_FILE}") == b"1\n2\n"


def test_a_study_is_copied_while_its_sweep_runs_although_the_store_refuses_at_times(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_place, "COPY_INTERVAL_S", 0.001)
    path, copied, refusals = here(remote, b"1\n"), threading.Event(), iter([False, True, True, False])

    def write(uri: str, content: bytes) -> None:
        if next(refusals):
            raise OSError("slow down")
        write_bytes(uri, content)
        if content == b"1\n2\n":
            copied.set()

    monkeypatch.setattr(study_place, "write_bytes", write)
    with kept_in(remote):
        path.write_bytes(b"1\n2\n")
        assert copied.wait(10)


def refuse(*_: object) -> None:
    raise OSError("away")


@pytest.fixture
def fail_to_copy(remote: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], None]:
    """Runs a sweep, ended by an error or none, whose store goes away in the middle."""

    def run(error: BaseException | None) -> None:
        path = here(remote, b"1\n")
        with StudyCopy(path, f"{remote}/{STUDY_FILE}"):
            path.write_bytes(b"1\n2\n")
            monkeypatch.setattr(study_place, "write_bytes", refuse)
            if error is not None:
                raise error

    return run


def test_a_store_that_stays_away_until_the_end_is_an_error(fail_to_copy: Callable[..., None], remote: str) -> None:
    with pytest.raises(StorageError, match=rf"away\. The study is on this machine \({study_file(remote)}\)"):
        fail_to_copy(None)


def test_what_ended_a_sweep_is_told_and_not_what_the_store_says_after_that(fail_to_copy: Callable[..., None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail_to_copy(KeyboardInterrupt())
