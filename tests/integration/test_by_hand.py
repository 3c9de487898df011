"""A cluster that somebody starts by the README's lines: a sweep outlives a node, and its winner answers."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from common.ray_head import LOOPBACK, free_port, is_free
from scripts.serving import GATEWAY_PORT
from tests.integration.test_readme import README, ROOT
from tests.nodes import kill_tree
from tests.services import read_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not is_free(GATEWAY_PORT), reason=f"port {GATEWAY_PORT}, where endpoints would be, is taken"),
]

(SECTION,) = re.findall(r"## On several machines\n.*?```sh\n(.*?)```", README, re.DOTALL)
LINES = [shlex.split(line, comments=True) for line in SECTION.splitlines()]
SMALL = ["search.num_trials=4", "search.scheduler=fifo", "train.epochs=6", "registry.quick_checks=[]"]
HOST, PORT, DASHBOARD_PORT = LOOPBACK, str(free_port()), str(free_port())


def line(*words: str) -> list[str]:
    """The line of the README with these words, for this machine, for ports that are free and for any folder."""
    (found,) = [line for line in LINES if set(words) <= set(line)]
    placed = [word.replace("HEAD:6379", f"{HOST}:{PORT}").replace("8265", DASHBOARD_PORT) for word in found]
    return [str(ROOT / word) if word.startswith("recipes/") else word for word in placed]


@pytest.fixture
def user() -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty home and the environment of a user, and afterwards no process that has it."""
    home = Path(tempfile.mkdtemp(prefix="by-hand-"))  # short: Ray's sockets are below it
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TUNESERVE_", "RAY_"))}
    environment |= {"HOME": str(home), "RAY_TMPDIR": str(home), "RAY_AUTH_MODE": "token"}
    environment |= {"TUNESERVE_STORAGE": str(home / "storage"), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    assert LINES[0] == ["export", "RAY_AUTH_MODE=token", "TUNESERVE_STORAGE=/YOUR-SHARED-FOLDER/tuneserve"]
    try:
        yield home, environment
        assert [process.cmdline() for process in processes_of(home)] == []
    finally:
        for process in processes_of(home):
            process.kill()
        shutil.rmtree(home, ignore_errors=True)


def processes_of(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def node(command: list[str], environment: dict[str, str]) -> Iterator[int]:
    """A node that `ray start` starts, until the block ends; its pid."""
    with subprocess.Popen(
        [*command, "--block"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        read_until("Ray runtime started", process.stdout)
        try:
            yield process.pid
        finally:
            kill_tree(process.pid)


def test_a_sweep_outlives_a_node_and_its_winner_answers_on_a_cluster_started_by_hand(
    user: tuple[Path, dict[str, str]],
) -> None:
    home, environment = user
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()

    def run(command: list[str]) -> None:
        done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run(line("get-auth-token"))
    with ExitStack() as nodes:
        head = [*line("--head"), f"--port={PORT}", f"--dashboard-port={DASHBOARD_PORT}", "--num-cpus=0"]
        nodes.enter_context(node(head, environment))
        worker = [*line("--address=HEAD:6379"), "--num-cpus=1"]
        workers = [nodes.enter_context(node(worker, environment)) for _ in range(2)]
        command = [*line("submit", "sweep"), *SMALL]
        with subprocess.Popen(
            command, cwd=elsewhere, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as sweep:
            said = read_until("epoch 1", sweep.stdout)
            kill_tree(workers[0])
            said += sweep.stdout.read() if sweep.stdout else ""
        assert sweep.returncode == 0, said
        assert "Leaderboard" in said
        run([*line("submit", "promote"), *SMALL])
        run([*line("submit", "deploy"), *SMALL])
        url = f"http://{LOOPBACK}:{GATEWAY_PORT}/quickstart"
        assert url in SECTION
        answer = httpx.post(f"{url}/classify", json={"text": "Fenwick Bank cuts guidance"}, timeout=120)
        assert answer.json()["version"] == 1
