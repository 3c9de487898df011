"""A place for files: a local path, or any URL that pyarrow or fsspec opens."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from common.errors import InputError


def is_url(location: str) -> bool:
    """Whether `location` has a scheme (`s3://...`) and is not a path."""
    return "://" in location


def filesystem(location: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system that holds `location`, and the path on it.

    pyarrow opens file, S3, Google Cloud, Azure and HDFS URLs itself; the rest (https, memory, ...) go to fsspec.
    Raises InputError when neither knows the scheme, or when the package for it is missing.
    """
    if not is_url(location):
        return pyarrow.fs.LocalFileSystem(), location
    try:
        opened, path = pyarrow.fs.FileSystem.from_uri(location)
        return opened, path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise InputError(f"{location} is not a URL that can be opened: {error}") from error
    try:
        opened, path = pyarrow.fs.FileSystem.from_uri(f"fsspec+{location}")
        return opened, path
    except (ValueError, ImportError) as error:
        raise InputError(f"{location} cannot be opened ({error}); use a path, s3://, gs:// or https://") from error


def local_path(location: str) -> Path | None:
    """`location` as a path on this machine, or None when it is elsewhere."""
    if not is_url(location):
        return Path(location)
    opened, path = filesystem(location) if location.startswith("file://") else (None, "")
    return Path(path) if opened else None


def join(location: str, *parts: str) -> str:
    """`location` with `parts` below it; paths and URLs alike."""
    return "/".join([location.rstrip("/"), *parts])


def cache_folder() -> Path:
    """Where this machine keeps copies of what is elsewhere: `$TUNESERVE_CACHE`, or `~/.cache/tuneserve`."""
    return Path(os.environ.get("TUNESERVE_CACHE") or Path.home() / ".cache" / "tuneserve")


def cached_copy(location: str, *key: str) -> Path:
    """A copy of the folder at `location` on this machine, downloaded once.

    `key` names it below `cache_folder()` and must change with the content. Safe when several
    processes want the same copy.
    """
    target = cache_folder().joinpath(*key)
    if target.is_dir():
        return target
    with whole_folder(target) as partial:
        source, path = filesystem(location)
        pyarrow.fs.copy_files(path, str(partial), source_filesystem=source)
    return target


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that becomes `target` when the block ends well, and vanishes when it does not.

    So `target` is never half-written. When another process was first, its folder stays and this one goes.
    """
    partial = target.parent / f".{target.name}-{uuid.uuid4().hex[:12]}"
    partial.mkdir(parents=True)
    try:
        yield partial
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
