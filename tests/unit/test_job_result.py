"""The head of a job's entry point; that stdout becomes the result is held by `test_jobs.py`."""

import subprocess
import sys
from pathlib import Path

import pytest

from common import job_result

ROOT = Path(job_result.__file__).parents[1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys; sys.stderr.write('a log line'); sys.exit(4)", 4),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
    ],
    ids=["exit", "signal"],
)
def test_a_command_that_prints_nothing_leaves_no_result_and_its_exit_code_as_a_shell_gives_it(
    code: str, expected: int, tmp_path: Path
) -> None:
    uri = tmp_path / "jobs" / "result.json"
    command = [sys.executable, "-m", "common.job_result", str(uri), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, uri.exists()) == (expected, False)


def test_an_interrupt_of_both_ends_the_command_in_its_own_way(tmp_path: Path) -> None:
    """As `stop` does: the command tidies up and prints, and the head outlives it and keeps what it printed."""
    uri = tmp_path / "result.json"
    code = """
import os, signal, sys
try:
    os.killpg(0, signal.SIGINT)
except KeyboardInterrupt:
    print("tidied up")
    sys.exit(130)
"""
    command = [sys.executable, "-m", "common.job_result", str(uri), sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, start_new_session=True)
    assert (done.returncode, uri.read_text()) == (130, "tidied up\n")
