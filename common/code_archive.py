"""The code that runs on a cluster, packed: for submitted jobs and for replicas that outlive the job that deployed them.

The archive is named by its content, so unchanged code is sent once.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.errors import InputError
from common.location import filesystem, is_url, join
from common.ray_environment import PROJECT_ROOT
from common.storage import write_bytes

JOB_FOLDERS = ("common", "tune", "serve", "scripts", "recipes")
SERVING_FOLDERS = ("common", "serve")

MAX_BYTES = 100 * 2**20
NUM_LARGEST_NAMED = 5

_SKIPPED_FOLDERS = {"__pycache__"}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


def pack(
    folders: Sequence[str] = JOB_FOLDERS, root: Path = PROJECT_ROOT, extra: Mapping[str, bytes] | None = None
) -> bytes:
    """A zip of these folders of the project and of `extra` files by name; equal files make equal bytes.

    Raises:
        InputError: The files are too large to send with every job; names the largest.
    """
    files = sorted(path for folder in folders for path in (root / folder).rglob("*") if _is_wanted(path))
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = sorted(files, key=lambda path: sizes[path], reverse=True)[:NUM_LARGEST_NAMED]
        named = ", ".join(f"{path.relative_to(root)} ({sizes[path] / 2**20:.1f} MiB)" for path in largest)
        raise InputError(
            f"the code in {root} has {total / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that a job may "
            f"carry; move data elsewhere. Largest: {named}"
        )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path in files:
            executable = bool(path.stat().st_mode & 0o100)
            archive.writestr(_entry(path.relative_to(root).as_posix(), executable), path.read_bytes())
        for name, content in sorted((extra or {}).items()):
            archive.writestr(_entry(name), content)
    return stream.getvalue()


def code_archive(storage: str, folders: Sequence[str] = SERVING_FOLDERS) -> str:
    """Puts the code that serving needs into `<storage>/code/<digest>.zip`, unless it is there already.

    Returns:
        Its URI, as Ray's `runtime_env` takes it for `working_dir`.
    """
    content = pack(folders)
    uri = join(storage, "code", f"{hashlib.sha256(content).hexdigest()[:16]}.zip")
    put(uri, content)
    return uri if is_url(uri) else Path(uri).absolute().as_uri()


def put(uri: str, content: bytes) -> None:
    """Writes a file that is named by its content, as a whole or not at all; one that exists is left alone."""
    files, path = filesystem(uri)
    if files.get_file_info(path).is_file:
        return
    write_bytes(uri, content)


def _entry(name: str, executable: bool = False) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, date_time=_EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (0o755 if executable else 0o644) << 16
    return entry


def _is_wanted(path: Path) -> bool:
    return path.is_file() and not _SKIPPED_FOLDERS.intersection(path.parts) and path.suffix != ".pyc"
