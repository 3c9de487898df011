"""One holder of a name in a store that knows no locks, such as S3: of two commands on one recipe the second is refused.

The holder writes its lease anew every `RENEW_INTERVAL_S`. Its age is told by the store's own clock, since machines'
clocks differ and jump. Two commands that start within the same instant may both get it: an object store cannot tell.
"""

import _thread
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from common.errors import InputError
from common.location import filesystem
from common.storage import read_json, write_json

logger = logging.getLogger(__name__)

RENEW_INTERVAL_S = 10.0

LAPSES_AFTER_S = 120.0
"""A lease that was not renewed for so long is free. Longer than a store may be away without ending a job."""


@contextmanager
def lease(uri: str, what: str) -> Iterator[None]:
    """Holds the lease at `uri` while the block runs. A holder that was taken for dead is interrupted.

    Raises InputError when another process holds it; `what` says to people what that one is at work on.
    """
    found = read_json(uri)
    if found is not None and not has_ended(found):
        free_in_s = LAPSES_AFTER_S - _age_s(uri)
        if free_in_s > 0:
            raise InputError(
                f"another command (process {found['pid']} on {found['host']}) is at work on {what}; wait for it, or, "
                f"if it was killed, try again in {free_in_s:.0f} s"
            )
    ours = this_process()
    write_json(uri, ours)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(uri, ours, ended), daemon=True, name="lease")
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(OSError):  # or it lapses
            if read_json(uri) == ours:
                files, path = filesystem(uri)
                files.delete_file(path)


def _renew(uri: str, ours: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_INTERVAL_S):
        try:
            found = read_json(uri)
            if found is not None and found["id"] != ours["id"]:
                logger.error("process %s on %s has taken over: this one ends", found["pid"], found["host"])
                _thread.interrupt_main()
                return
            write_json(uri, ours)
        except OSError as error:
            logger.warning("the lease %s waits for the storage: %s", uri, error)


def this_process() -> dict[str, Any]:
    """Who holds what is taken now: this process, under an id of its own each time."""
    pid = os.getpid()
    return {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": pid, "started": _started(pid)}


def has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    return bool(holder["host"] == socket.gethostname() and holder["started"] != _started(holder["pid"]))


def _started(pid: int) -> float | None:
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def _age_s(uri: str) -> float:
    """Seconds since the lease was written, by the clock of the store."""
    files, path = filesystem(uri)
    probe = f"{path}.{uuid.uuid4().hex[:8]}"
    with files.open_output_stream(probe) as stream:
        stream.write(b"now")
    lease_info, now = files.get_file_info([path, probe])
    files.delete_file(probe)
    if lease_info.mtime is None or now.mtime is None:
        return 0.0
    return float((now.mtime - lease_info.mtime).total_seconds())
