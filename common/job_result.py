"""Runs a command of a job and keeps what it prints on stdout as a file in `storage`.

A Ray job mixes stdout with the logs; `--json` results travel beside them. Used as the head of a job's entry point:
`python -m common.job_result URI COMMAND ...`
"""

import signal
import subprocess
import sys
from collections.abc import Sequence

from common.storage import write_bytes


def main(arguments: Sequence[str]) -> int:
    """Runs `arguments[1:]`, writes its stdout to `arguments[0]` unless it is empty, and returns its exit code."""
    uri, *command = arguments
    # Stopping a job interrupts all of its processes: the command ends in its own way, and its exit code is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, preexec_fn=_take_interrupts)
    if done.stdout:
        write_bytes(uri, done.stdout)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
