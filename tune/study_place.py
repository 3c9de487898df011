"""Where a sweep's study is: a file in the sweep's folder or, for an object store, a file here and a copy there.

An object store cannot append. So the driver writes the file on its own machine, and a thread copies it to the store
whenever it has grown: another machine continues, or shows, a sweep from there. What a machine that is lost had not
copied yet, the last seconds, is trained again from the checkpoints.
"""

import hashlib
import logging
import os
import threading
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import StorageError
from common.location import cache_folder, join, local_path
from common.storage import read_bytes, write_bytes

logger = logging.getLogger(__name__)

STUDY_FILE = "study.journal"

COPY_INTERVAL_S = 5.0
"""How far the copy may be behind, unless the study is so large that copying it takes a while."""

SHARE_OF_TIME = 0.05
"""The part of its time that the thread copies, at most."""


def study_file(folder: str) -> Path:
    """The study's file: in the sweep's `folder`, or on this machine when that is elsewhere."""
    local = local_path(folder)
    if local is not None:
        return local / STUDY_FILE
    place = hashlib.sha256(folder.encode()).hexdigest()[:8]
    return cache_folder() / "sweeps" / f"{folder.rstrip('/').rsplit('/', 1)[-1]}-{place}" / STUDY_FILE


def fetch_study(folder: str) -> Path:
    """`study_file`, brought up to date when the copy in an object store knows more, or other.

    The file here is kept when the copy is the beginning of it: then its driver is, or was, on this machine. Raises
    StorageError when the store does not answer.
    """
    path = study_file(folder)
    if local_path(folder) is not None:
        return path
    try:
        copy = read_bytes(join(folder, STUDY_FILE))
    except OSError as error:
        raise StorageError(f"the study of {folder} cannot be read: {error}; try again later") from error
    if copy is not None and not (path.exists() and path.read_bytes().startswith(copy)):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{STUDY_FILE}-{uuid.uuid4().hex[:8]}")
        draft.write_bytes(copy)
        draft.rename(path)
    return path


def kept_in(folder: str) -> AbstractContextManager[object]:
    """While its block runs, the study that this process writes gets into `folder`."""
    return nullcontext() if local_path(folder) is not None else StudyCopy(study_file(folder), join(folder, STUDY_FILE))


class StudyCopy:
    """Copies a growing file to a URL while a block runs, and at its end.

    Raises StorageError at the start and the end of the block when the store does not take it; in between it waits.
    """

    def __init__(self, path: Path, uri: str) -> None:
        self._path = path
        self._uri = uri
        self._copied = -1
        """Bytes in the store."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="study-copy")

    def __enter__(self) -> Self:
        self._copy_or_raise()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        try:
            self._copy_or_raise()
        except StorageError as problem:
            if error is None:
                raise
            logger.warning("%s", problem)  # what ended the sweep is what people must hear of

    def _run(self) -> None:
        pause_s = COPY_INTERVAL_S
        while not self._ended.wait(pause_s):
            started = time.monotonic()
            try:
                self._copy()
            except OSError as error:
                logger.warning("the study waits for the storage: %s", error)
            pause_s = max(COPY_INTERVAL_S, (time.monotonic() - started) / SHARE_OF_TIME)

    def _copy_or_raise(self) -> None:
        try:
            self._copy()
        except OSError as error:
            raise StorageError(
                f"{self._uri} cannot be written: {error}. The study is on this machine ({self._path}): run the same "
                "command again here (a sweep with --resume) when the storage is back"
            ) from error

    def _copy(self) -> None:
        if os.stat(self._path).st_size == self._copied:
            return
        content = self._path.read_bytes()
        write_bytes(self._uri, content[: content.rfind(b"\n") + 1])  # without a line that is being written
        self._copied = len(content)
