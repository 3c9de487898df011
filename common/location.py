"""A place for files: a local path, or any URL that pyarrow or fsspec opens."""

import functools
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs

from common.errors import InputError

S3_ATTEMPTS = 10
"""How often a request to S3 is made before it counts as failed: over about 90 s, with growing pauses. A store that is
away, or asks for less, for a minute ends no job."""


class PatientS3FileSystem(pyarrow.fs.S3FileSystem):  # type: ignore[misc]
    """S3 that is asked `S3_ATTEMPTS` times, also by the processes that it is sent to.

    Arrow alone gives a server that cannot be reached 6 s, and about 1 s in a process that a file system was sent to.
    """

    def __init__(self, **options: Any) -> None:
        retries = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
        super().__init__(**options, retry_strategy=retries)

    def __reduce__(self) -> Any:
        return _open_s3, super().__reduce__()[1]


def _open_s3(options: dict[str, Any]) -> PatientS3FileSystem:
    return PatientS3FileSystem(**options)


_SCHEMES = {"s3": "s3", "gcs": "gs", "memory": "memory"}
"""By Arrow's name of a file system: those whose paths say everything else."""


def is_url(location: str) -> bool:
    """Whether `location` has a scheme (`s3://...`) and is not a path."""
    return "://" in location


def filesystem(location: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system that holds `location`, and the path on it.

    pyarrow opens file, S3, Google Cloud, Azure and HDFS URLs itself; the rest (https, memory, ...) go to fsspec.
    Raises InputError when neither knows the scheme, or when the package for it is missing.
    """
    if not location.startswith("s3://"):
        return _open(location)
    parts = _s3_parts(location)
    opened, bucket = _bucket(f"s3://{parts.netloc}{'?' if parts.query else ''}{parts.query}")
    return opened, f"{bucket}{unquote(parts.path)}".rstrip("/")


def _s3_parts(location: str) -> SplitResult:
    try:
        return urlsplit(location)
    except ValueError as error:
        raise InputError(f"{location} is not a URL that can be opened: {error}") from error


@functools.lru_cache(maxsize=16)
def _bucket(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Kept, because a client for S3 takes 0.1 s to make and asks for the bucket's region."""
    opened, path = _open(uri)
    return _open_s3(opened.__reduce__()[1][0]), path


def location_of(files: pyarrow.fs.FileSystem, path: str) -> str:
    """The location that `filesystem` opens as that path: what Ray tells of a checkpoint is these two.

    Raises InputError for a file system of which the path does not tell where it is.
    """
    kind = files.type_name.removeprefix("py::fsspec+")
    if kind == "local":
        return path
    if kind not in _SCHEMES:
        raise InputError(f"{kind} cannot be the storage of a sweep; use a path, s3:// or gs://")
    return f"{_SCHEMES[kind]}://{path.lstrip('/')}"


def refuse_unreachable(location: str) -> None:
    """Finds out in seconds what `filesystem` would find out in minutes: that a store is away, or refuses.

    Raises InputError.
    """
    files, path = _open(location)
    bucket = path.partition("/")[0]
    try:
        files.get_file_info(path)
        is_missing = files.type_name == "s3" and files.get_file_info(bucket).type == pyarrow.fs.FileType.NotFound
    except OSError as error:
        raise InputError(
            f"{location} cannot be reached: {error}. Correct the location, AWS_ENDPOINT_URL or the credentials"
        ) from error
    if is_missing:
        raise InputError(f"there is no bucket {bucket!r} for {location}; create it, or correct the location")


def _open(location: str) -> tuple[pyarrow.fs.FileSystem, str]:
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
