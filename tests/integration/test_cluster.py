import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray

from common import ray_head
from common.cluster import PROJECT_ROOT, ClusterRecord, connect, down, read_record, resources, with_gateway
from common.cluster_record import recorded

START = (
    "import dataclasses, json, sys; from common.cluster import up; "
    "record = up(storage=sys.argv[1], tracking_uri='sqlite:///x.db', num_cpus=1, dashboard_port=int(sys.argv[2])); "
    "print(json.dumps(dataclasses.asdict(record)))"
)


@pytest.fixture
def own_home(cluster, tmp_path, monkeypatch):
    """A home folder apart from the session's, whose cluster is ended whatever happens."""
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
    yield tmp_path
    down()
    shutil.rmtree(ray_head.session_folder(), ignore_errors=True)


def start_command(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", START, str(folder), *arguments],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def record_of(command: subprocess.Popen) -> ClusterRecord:
    output, _ = command.communicate(timeout=120)
    assert command.returncode == 0
    return ClusterRecord(**json.loads(output))


def processes_of(record: ClusterRecord) -> list[psutil.Process]:
    return ray_head._members(record.cluster_id)


def test_two_ups_at_once_give_one_cluster_that_outlives_them_and_down_leaves_nothing(own_home, cluster):
    port = str(ray_head.free_port())
    commands = [start_command(own_home, port), start_command(own_home, port)]
    first, second = (record_of(command) for command in commands)
    assert first == second == read_record()
    assert first.storage == str(own_home)

    names = " ".join(" ".join(process.cmdline()) for process in processes_of(first))
    for part in ("gcs_server", "raylet", "dashboard.py"):
        assert part in names
    assert "ray.util.client.server" not in names
    listening = [
        connection.laddr.ip
        for process in processes_of(first)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    for name in ("cluster.json", "ray_token"):
        assert stat.S_IMODE((own_home / "home" / name).stat().st_mode) == 0o600

    assert with_gateway(first, "http://127.0.0.1:1").gateway_url == "http://127.0.0.1:1"
    assert read_record() == dataclasses.replace(first, gateway_url="http://127.0.0.1:1")

    bystanders = [process.pid for process in processes_of(cluster.record)]
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    assert set(processes_of(first)) == set(family)
    assert down()
    assert living(family) == []
    assert read_record() is None
    assert not down()
    assert all(psutil.pid_exists(pid) for pid in bystanders)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_head_that_was_killed_is_noticed_and_what_it_left_is_ended(own_home, caplog):
    record = record_of(start_command(own_home, str(ray_head.free_port())))
    head = psutil.Process(record.pid)
    family = head.children(recursive=True)
    head.kill()
    wait_for(lambda: not living([head]))
    assert read_record() is None
    assert "has ended by itself" in caplog.text
    assert recorded() == record
    down()
    assert living(family) == []
    assert recorded() is None


def wait_for(condition, deadline_s=30.0):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.05)


CONNECT = """
import json, os, sys
import ray
from common.cluster import connect
with connect() as connection:
    @ray.remote
    def imported():
        import common, serve, tune
        return [tune.__file__, serve.__file__, common.__file__]
    files = ray.get(imported.remote(), timeout=60)
print(json.dumps({"is_private": connection.is_private, "files": files, "folder": os.getcwd()}))
"""


@pytest.mark.parametrize("is_private", [False, True])
def test_a_driver_works_from_a_folder_that_holds_namesakes_of_our_packages(cluster, tmp_path, monkeypatch, is_private):
    folder = tmp_path / "work"
    (folder / "common").mkdir(parents=True)
    for name in ("tune.py", "serve.py", "common/__init__.py"):
        (folder / name).write_text("raise ImportError('not ours')")
    script = tmp_path / "bin" / "command.py"
    script.parent.mkdir()
    script.write_text(CONNECT)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    if is_private:
        environment["TUNESERVE_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["is_private"] is is_private
    assert report["files"] == [str(PROJECT_ROOT / name / "__init__.py") for name in ("tune", "serve", "common")]
    assert report["folder"] == str(folder)
    assert done.stderr == ""


def test_connecting_again_uses_the_connection_that_is_there(cluster):
    with connect() as again:
        assert again == cluster
    assert ray.is_initialized()


def test_resources_are_what_the_cluster_was_started_with(cluster):
    offered = resources()
    assert (offered.num_cpus, offered.num_gpus, len(offered.nodes)) == (4.0, 0.0, 1)


def test_threads_of_a_training_do_not_spin_while_they_wait(cluster):
    @ray.remote(num_cpus=0)
    def wait_policy():
        return os.environ["OMP_WAIT_POLICY"]

    assert ray.get(wait_policy.remote()) == "passive"
