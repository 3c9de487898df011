"""Whether a Jobs API belongs to a Ray head on this machine: its jobs then find the same files.

What listens on loopback is not always one: a port may be forwarded from elsewhere.
"""

from urllib.parse import urlsplit

import psutil

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DASHBOARD = "ray/dashboard/dashboard.py"
"""Ends the name of the program that serves the Jobs API."""


def is_head_here(address: str) -> bool:
    """Whether the Ray dashboard at an http address is a process of this machine.

    False where that cannot be told: the system shows nobody who listens (macOS), or not whose process it is.
    """
    parts = urlsplit(address)
    if parts.hostname not in _LOOPBACK:
        return False
    try:
        found = psutil.net_connections("tcp")
    except psutil.Error:
        return False
    listening = (
        each for each in found if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == parts.port
    )
    return any(_is_dashboard(each.pid) for each in listening if each.pid is not None)


def _is_dashboard(pid: int) -> bool:
    try:
        return any(part.endswith(_DASHBOARD) for part in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False
