"""Small files, on this machine and elsewhere."""

import uuid
from pathlib import Path
from typing import Any, cast

import pytest

from common.storage import folders_in, read_json, write_bytes, write_json


@pytest.fixture(params=["path", "url"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place."""
    return str(tmp_path) if request.param == "path" else f"memory://test_storage/{uuid.uuid4().hex}"


def test_what_is_written_is_read_back_and_replaced(folder: str) -> None:
    for document in ({"text": "naïve"}, ["another"]):
        write_json(f"{folder}/below/that/a.json", document)
        assert read_json(f"{folder}/below/that/a.json") == document
    assert folders_in(f"{folder}/below") == ["that"]


def test_a_file_that_is_not_there_is_none(folder: str) -> None:
    assert read_json(f"{folder}/below/a.json") is None


def test_a_folders_own_folders_are_listed_and_no_files(folder: str) -> None:
    for name in ("b/deeper/x.json", "c.json", "a.json"):
        write_json(f"{folder}/{name}", {})
    assert folders_in(folder) == ["b"]
    assert folders_in(f"{folder}/none") == []


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    uri = str(tmp_path / "a.json")
    write_bytes(uri, b"[1]")
    with pytest.raises(TypeError):
        write_bytes(uri, cast(Any, "what a stream of bytes refuses"))
    assert read_json(uri) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
