"""Telling a whole checkpoint from one that was cut short: by a full disk, a killed process, a broken upload.

The last file written to a checkpoint folder is `manifest.json`, with the size in bytes of every other. A folder without
it, or with a file that is missing or of another size, is not continued from.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow.fs

from common.location import filesystem
from common.storage import write_bytes

MANIFEST_FILE = "manifest.json"

CHECKPOINT_NAME = re.compile(r"checkpoint_\d+|epoch-\d+")
"""What checkpoint folders are called: Tune's, and those of a Ray Train group."""

STATE_FILE = "trainer_state.pt"
"""The optimiser's state, about twice the size of the weights."""


def seal(folder: Path) -> None:
    """Writes the manifest; call it when everything else is written."""
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(sizes, indent=1))


def keep_only(checkpoint: str) -> None:
    """Removes all other checkpoints of a finished trial, and from this one what only continuing it would need."""
    files, path = filesystem(checkpoint)
    trial, _, kept = path.rpartition("/")
    for info in files.get_file_info(pyarrow.fs.FileSelector(trial, allow_not_found=True)):
        is_checkpoint = info.type == pyarrow.fs.FileType.Directory and CHECKPOINT_NAME.fullmatch(info.base_name)
        if is_checkpoint and info.base_name != kept:
            files.delete_dir(info.path)
    with files.open_input_stream(f"{path}/{MANIFEST_FILE}") as stream:
        sizes: dict[str, int] = json.loads(stream.read())
    if sizes.pop(STATE_FILE, None) is not None:
        write_bytes(
            f"{checkpoint}/{MANIFEST_FILE}", json.dumps(sizes, indent=1).encode()
        )  # first: it names fewer files
        files.delete_file(f"{path}/{STATE_FILE}")


def discard(checkpoint: str) -> None:
    """Removes all checkpoints of a trial that has ended, of which this is one."""
    files, path = filesystem(checkpoint)
    for info in files.get_file_info(pyarrow.fs.FileSelector(path.rpartition("/")[0], allow_not_found=True)):
        if info.type == pyarrow.fs.FileType.Directory and CHECKPOINT_NAME.fullmatch(info.base_name):
            files.delete_dir(info.path)


def damage(checkpoint: str) -> str | None:
    """What is wrong with the checkpoint at a path or URL, for people; None when it is whole."""
    return damage_on(*filesystem(checkpoint))


def damage_on(files: pyarrow.fs.FileSystem, path: str) -> str | None:
    """`damage` of the folder at `path` on a file system."""
    try:
        with files.open_input_stream(f"{path}/{MANIFEST_FILE}") as stream:
            expected: dict[str, int] = json.loads(stream.read())
    except FileNotFoundError:
        return f"it has no {MANIFEST_FILE}"
    except ValueError:
        return f"its {MANIFEST_FILE} is cut short"
    for info, (name, size) in zip(
        files.get_file_info([f"{path}/{name}" for name in expected]), expected.items(), strict=True
    ):
        if not info.is_file:
            return f"{name} is missing"
        if info.size != size:
            return f"{name} has {info.size:,} of {size:,} bytes"
    return None


def first_whole(checkpoints: Sequence[str]) -> tuple[str | None, list[str]]:
    """The first checkpoint that is whole, and what is wrong with those before it, one line each."""
    problems: list[str] = []
    for checkpoint in checkpoints:
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint, problems
        problems.append(f"checkpoint {checkpoint} is not whole ({problem})")
    return None, problems
