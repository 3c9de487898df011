"""Small files in `storage`, which is a folder or any URL that pyarrow or fsspec opens."""

import json
import uuid
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.fs

from common.location import filesystem

_WHOLE_OBJECTS = ("s3", "gcs")
"""Stores whose objects appear when they are complete, and which cannot rename: a file goes there under its own name."""


def write_bytes(uri: str, content: bytes) -> None:
    """Writes a file as a whole or not at all; a write that is killed may leave a hidden one beside it."""
    files, path = filesystem(uri)
    if files.type_name in _WHOLE_OBJECTS:
        with files.open_output_stream(path) as stream:
            stream.write(pa.py_buffer(content))
        return
    folder, _, name = path.rpartition("/")
    files.create_dir(folder, recursive=True)
    partial = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with files.open_output_stream(partial) as stream:
            stream.write(content)
        files.move(partial, path)
    except BaseException:
        with suppress(OSError):
            files.delete_file(partial)
        raise


def write_json(uri: str, document: Any) -> None:
    """Writes a JSON file as a whole or not at all."""
    write_bytes(uri, json.dumps(document, indent=2, ensure_ascii=False).encode())


def read_bytes(uri: str) -> bytes | None:
    """The content of a file, or None when there is no such file."""
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def read_json(uri: str) -> Any:
    """The content of a JSON file, or None when there is no such file."""
    content = read_bytes(uri)
    return None if content is None else json.loads(content)


def folders_in(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; empty when there is no such folder."""
    files, path = filesystem(uri)
    found = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory)


def delete_folder(uri: str) -> None:
    """Deletes a folder with all that is in it, if there is one."""
    files, path = filesystem(uri)
    with suppress(FileNotFoundError):
        files.delete_dir(path)
