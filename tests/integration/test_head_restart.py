"""A cluster whose control store is in Redis outlives its head: detached actors and endpoints go on."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from common.ray_environment import own_cluster_environment
from common.ray_head import LOOPBACK, free_port
from tests.nodes import kill_tree, wait_for
from tests.services import ROOT, server

REDIS = shutil.which("redis-server")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(REDIS is None, reason="Redis is not installed (redis-server)")]


@dataclass(frozen=True)
class Cluster:
    address: str
    environment: Mapping[str, str]
    temp_dir: str
    folder: Path

    @contextmanager
    def head(self) -> Iterator[psutil.Process]:
        """A head without CPUs, so that only what belongs there is on it."""
        # A head has its machine for itself; here Ray would take the worker for a head that runs already.
        (Path(self.temp_dir) / "ray_current_cluster").unlink(missing_ok=True)
        options = {"node-ip-address": LOOPBACK, "port": self.address.rpartition(":")[2], "temp-dir": self.temp_dir}
        options |= {
            "num-cpus": 0,
            "include-dashboard": "false",
            "dashboard-port": free_port(),
            "min-worker-port": 0,
            "max-worker-port": 0,
        }
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
        with (self.folder / "head.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                wait_for(lambda: self._answers(process), timeout_s=120)
                yield psutil.Process(process.pid)
            finally:
                kill_tree(process.pid)
                process.wait()

    @contextmanager
    def worker(self) -> Iterator[int]:
        """A second node, whose tree starts at that pid."""
        command = [sys.executable, "-P", str(ROOT / "tests" / "raylet.py"), self.address, "4"]
        with (self.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            try:
                yield process.pid
            finally:
                kill_tree(process.pid)
                process.wait()

    def drive(self, step: str) -> dict[str, Any]:
        """The answer of `tests/endpoint_driver.py`."""
        command = [sys.executable, "-P", str(ROOT / "tests" / "endpoint_driver.py"), step, str(self.folder)]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _answers(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None, (self.folder / "head.log").read_text()
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check", f"--address={self.address}"]
        return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0


@pytest.fixture
def redis_cluster(tmp_path: Path) -> Iterator[Cluster]:
    assert REDIS is not None
    port = free_port()
    with ExitStack() as stack:
        temp_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
        # As docs/services.md has it: what was acknowledged is on the disk.
        command = [REDIS, "--port", str(port), "--bind", LOOPBACK, "--dir", str(tmp_path), "--appendonly", "yes"]
        stack.enter_context(server(command, port, tmp_path / "redis.log"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNESERVE_HOME", str(tmp_path / "home"))
            own = own_cluster_environment()
            home = {"TUNESERVE_HOME": str(tmp_path / "home")}
        address = f"{LOOPBACK}:{free_port()}"
        ours = {
            "RAY_REDIS_ADDRESS": f"{LOOPBACK}:{port}",
            "RAY_external_storage_namespace": "tuneserve-tests",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
            "RAY_ADDRESS": address,
            "PYTHONPATH": str(ROOT),
        }
        yield Cluster(address, {**os.environ, **own, **home, **ours}, temp_dir, tmp_path)


def test_a_detached_actor_and_an_endpoint_outlive_a_killed_control_store(redis_cluster: Cluster) -> None:
    with redis_cluster.head() as head, redis_cluster.worker():
        before = redis_cluster.drive("deploy")
        assert _label(before["url"]) == "good"
        (control_store,) = [p for p in head.children(recursive=True) if p.name().startswith("gcs_server")]
        control_store.kill()
        head.wait(60)  # what keeps a head up, systemd or a Kubernetes operator, starts it again
        with redis_cluster.head():
            after = redis_cluster.drive("ask")
            assert after == {"calls": before["calls"] + 1, "pid": before["pid"]}
            wait_for(lambda: _label(before["url"]) == "good", timeout_s=180)


def _label(url: str) -> str | None:
    try:
        answer = httpx.post(url, json={"texts": ["good"]}, timeout=60)
    except httpx.HTTPError:
        time.sleep(0.5)
        return None
    return str(answer.json()["predictions"][0]["label"]) if answer.status_code == 200 else None
