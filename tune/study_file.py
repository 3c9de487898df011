"""The file that holds a sweep's study: Optuna's journal, written by one process.

Optuna's own backend serves any number of writers: it takes a lock, waits for the disk and reads the file again at each
of a trial's dozen operations. A study has one writer, the sweep's driver, so none of that is needed: what is written is
safe from the end of the process at once, and from a power failure within `SYNC_INTERVAL_S`.
"""

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

SYNC_INTERVAL_S = 1.0
"""How often the disk is waited for while a sweep writes."""


class StudyFile(BaseJournalBackend):
    """One operation a line, as `JournalFileBackend` writes them, so that either reads the other's files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_log = 0
        self._next_offset = 0
        """Where in the file that log begins."""
        self._own: deque[bytes] = deque()
        """Lines from there on that were written here: they need not be read back."""
        self._is_whole = False
        self._synced_at = time.monotonic()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from that number on; a line that is still being written is left for the next call."""
        if log_number_from != self._next_log:
            self._next_log = self._next_offset = 0
            self._own.clear()
        while self._own:
            line = self._own.popleft()
            self._advance(line)
            yield json.loads(line)
        if self._path.stat().st_size == self._next_offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._next_offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._advance(line)
                if self._next_log > log_number_from:
                    yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Writes operations."""
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        if not self._is_whole:
            self._cut_torn_line()
        rest = memoryview(b"".join(lines))
        known_size = self._next_offset + sum(map(len, self._own)) + len(rest)
        with self._path.open("ab", buffering=0) as file:
            self._is_whole = False  # a disk that is full takes a part, and refuses the rest
            while rest:
                rest = rest[file.write(rest) :]
            self._is_whole = True
            if file.tell() == known_size:  # nobody else has written
                self._own.extend(lines)
            if time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
                os.fsync(file.fileno())
                self._synced_at = time.monotonic()

    def _advance(self, line: bytes) -> None:
        self._next_log += 1
        self._next_offset += len(line)

    def _cut_torn_line(self) -> None:
        """Removes what a driver that was killed while it wrote left of its last operation."""
        content = self._path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(self._path, content.rfind(b"\n") + 1)
        self._is_whole = True
