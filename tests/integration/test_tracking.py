"""Several processes on one new MLflow database; no Ray."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.tracking import sqlite_uri


def test_several_processes_open_a_new_database_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from common.tracking import Tracker; t = Tracker.open(sys.argv[1], 'e');"
        "print(t.experiment_id, t.client.get_run(t.start('r')).info.status)"
    )
    command = [sys.executable, "-c", code, sqlite_uri(str(tmp_path / "new"))]
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(2)))

    assert [(done.stdout, done.stderr) for done in outputs] == [("1 RUNNING\n", "")] * 2  # and nothing else is printed
