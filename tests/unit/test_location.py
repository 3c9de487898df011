"""Places for files; that a remote folder is fetched once and leaves nothing when it fails is in `test_engine.py`."""

import pickle
from pathlib import Path

import fsspec
import pyarrow.fs
import pytest

from common.errors import InputError
from common.location import (
    PatientS3FileSystem,
    cached_copy,
    filesystem,
    join,
    local_path,
    location_of,
    whole_folder,
)


def test_parts_are_joined_to_paths_and_urls_alike() -> None:
    assert join("/storage/", "runs", "a") == "/storage/runs/a"
    assert join("s3://bucket", "runs", "a") == "s3://bucket/runs/a"


def test_a_place_on_this_machine_is_known_as_a_path_or_as_a_file_url() -> None:
    assert local_path("/a b") == local_path("file:///a%20b") == Path("/a b")
    assert local_path("memory://a") is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no-such-scheme://x", r"^no-such-scheme://x cannot be opened .*; use a path, s3://"),
        ("s3://[x", r"^s3://\[x is not a URL that can be opened"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused_by_name(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        filesystem(url)


@pytest.fixture
def _in_no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process asks a network for credentials or a region."""
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_in_no_cloud")
def test_s3_is_asked_patiently_also_by_the_processes_it_is_sent_to() -> None:
    files, path = filesystem("s3://bucket/a%20b/c/?region=us-east-1")
    assert path == "bucket/a b/c"
    assert isinstance(files, PatientS3FileSystem)
    sent = pickle.loads(pickle.dumps(files))
    assert isinstance(sent, PatientS3FileSystem)
    assert sent == files
    assert filesystem("s3://bucket/d?region=us-east-1")[0] is files


@pytest.mark.usefixtures("_in_no_cloud")
@pytest.mark.parametrize("location", ["/a b/c", "s3://bucket/a/b", "memory://a/b"])
def test_a_location_is_told_from_what_it_opens(location: str) -> None:
    files, path = filesystem(f"{location}?region=us-east-1" if location.startswith("s3") else location)
    assert location_of(files, path) == location


def test_a_file_system_whose_paths_do_not_tell_where_it_is_is_refused() -> None:
    files = pyarrow.fs.SubTreeFileSystem("/somewhere", pyarrow.fs.LocalFileSystem())
    with pytest.raises(InputError, match="subtree cannot be the storage of a sweep; use a path, s3://"):
        location_of(files, "a")


def test_a_folder_appears_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "below" / "target"
    with whole_folder(target) as partial:
        (partial / "a").write_text("a")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert (target / "a").read_text() == "a"


def test_a_folder_that_could_not_be_finished_leaves_nothing(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with whole_folder(tmp_path / "target") as partial:
            (partial / "a").write_text("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_who_make_a_folder_wins(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "target") as slower:
        (slower / "by").write_text("the second")
        with whole_folder(tmp_path / "target") as faster:
            (faster / "by").write_text("the first")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "by").read_text() == "the first"


def test_a_copy_is_downloaded_once_for_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESERVE_CACHE", str(tmp_path / "cache"))
    remote = fsspec.filesystem("memory")
    remote.pipe("/test_location/data/sub/a", b"first")
    assert cached_copy("memory://test_location/data", "data", "1") == tmp_path / "cache" / "data" / "1"
    remote.pipe("/test_location/data/sub/a", b"second")
    contents = [(cached_copy("memory://test_location/data", "data", key) / "sub" / "a").read_text() for key in "12"]
    assert contents == ["first", "second"]
