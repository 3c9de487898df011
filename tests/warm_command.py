"""The command line in processes that are forked from one that has made its imports.

Imports are most of what a command costs a test. `test_readme` runs the command as it is installed too.
"""

import atexit
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    ["mlflow", "ray.serve", "scripts.cli", "scripts.line", "scripts.prediction", "tune.promote", "tune.sweep"]
)


class Command:
    """A `tuneserve` command that runs, in this process's environment."""

    def __init__(self, *arguments: str) -> None:
        descriptor, self._stdout = tempfile.mkstemp()
        os.close(descriptor)
        reader, writer = _FORKED.Pipe(duplex=False)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        self._process = _FORKED.Process(target=_run, args=(arguments, environment, self._stdout, writer))
        self._process.start()
        writer.close()
        self.stderr = os.fdopen(os.dup(reader.fileno()), encoding="utf-8")
        reader.close()

    def send_signal(self, signum: int) -> None:
        """Sends it to the command alone."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)

    def kill(self) -> None:
        """Ends it without warning."""
        self._process.kill()

    def communicate(self) -> tuple[str, str]:
        """Waits for its end; returns what it wrote to stdout, and what of stderr was not read before."""
        with self.stderr:
            said = self.stderr.read()
        self._process.join()
        printed = Path(self._stdout)
        out = printed.read_text("utf-8")
        printed.unlink()
        return out, said

    @property
    def returncode(self) -> int | None:
        """As of `subprocess.Popen`."""
        return self._process.exitcode


def _run(arguments: tuple[str, ...], environment: dict[str, str], stdout: str, stderr: Connection) -> None:
    """In the forked process: what `python -m scripts.cli` does, down to its end."""
    from scripts.cli import main

    os.dup2(os.open(stdout, os.O_WRONLY), 1)
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = [str(ROOT / "scripts" / "cli.py"), *arguments]
    try:
        main()
    finally:
        atexit._run_exitfuncs()
