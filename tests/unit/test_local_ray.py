"""A head on this machine is told from a port that is forwarded to another."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.local_ray import is_head_here

LISTENS = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(program: Path) -> Iterator[int]:
    """A process that runs such a file and listens on the port that is yielded."""
    program.parent.mkdir(parents=True)
    program.write_text(LISTENS)
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


@pytest.mark.parametrize(
    ("program", "host", "is_here"),
    [
        ("ray/dashboard/dashboard.py", "127.0.0.1", True),
        ("ray/dashboard/dashboard.py", "localhost", True),
        ("ray/dashboard/dashboard.py", "head.example", False),
        ("forwards/ports.py", "127.0.0.1", False),
    ],
)
def test_a_head_is_here_when_its_dashboard_listens_on_this_machine(
    program: str, host: str, is_here: bool, tmp_path: Path
) -> None:
    with listening(tmp_path / program) as port:
        assert is_head_here(f"http://{host}:{port}") is is_here


def test_nobody_who_listens_is_no_head() -> None:
    assert not is_head_here("http://127.0.0.1:1")
