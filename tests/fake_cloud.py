"""A head as `ray up` leaves it, whose autoscaler starts the machines of `cluster.yaml` as more nodes of this one.

`ray.cluster_utils.AutoscalingCluster` is meant for this, with the same provider behind it. But it ends every Ray on the
machine before it starts and after it ends (`ray stop --force`), and reads a file that Ray's wheels lack.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from common import ray_head
from common.cluster import PROJECT_ROOT
from tests.node_types import bootstrap_config

IDLE_TIMEOUT_MINUTES = 0.05
START_DEADLINE_S = 60.0
NODE_MEMORY = 100_000_000
"""Bytes of each node's object store: Ray's default is a third of the machine."""


def fake_provider(config: dict[str, Any], port: int) -> dict[str, Any]:
    """The configuration with its provider exchanged, and fast: the types and their bounds stay as they are."""
    kinds = dict(config["available_node_types"])
    head = kinds.pop(config["head_node_type"])
    named = {FAKE_HEAD_NODE_TYPE: {"resources": head["resources"], "max_workers": 0}, **kinds}
    for name, kind in named.items():
        kept = {key: kind[key] for key in ("max_workers", "priority") if key in kind}
        memory = {} if name == FAKE_HEAD_NODE_TYPE else {"object_store_memory": NODE_MEMORY}
        named[name] = {**kept, "resources": {**kind["resources"], **memory}, "node_config": {}}
    lists = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": config["cluster_name"],
        "max_workers": config["max_workers"],
        "upscaling_speed": config["upscaling_speed"],
        "idle_timeout_minutes": IDLE_TIMEOUT_MINUTES,
        "provider": {
            "type": "external",  # under its own name, `fake_multinode`, Ray reads that file too
            "module": f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}",
            "gcs_address": f"{ray_head.LOOPBACK}:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "available_node_types": named,
        **{f"{name}_commands": [] for name in lists},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        "file_mounts_sync_continuously": False,
    }


class FakeCloud:
    """Runs from `start` to `end`; drivers join it with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = ray_head.free_port()
        self.dashboard_port = ray_head.free_port()
        self._id = uuid.uuid4().hex
        self._session = Path(tempfile.mkdtemp(prefix="ts-", dir="/tmp"))  # a socket's path is short
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = self._environment()

    def _environment(self) -> dict[str, str]:
        """That of the head, which the machines inherit; its home folder holds what `ray up` leaves there."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TUNESERVE_HOME", str(self._folder / "tuneserve"))
            inherited = ray_head._environment(self._id)
        return {
            **inherited,
            "HOME": str(self._folder),
            "TUNESERVE_STORAGE": str(self._folder / "storage"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self._folder}/mlflow.db",
            "RAY_ADDRESS": f"{ray_head.LOOPBACK}:{self._port}",
            "RAY_API_SERVER_ADDRESS": f"http://{ray_head.LOOPBACK}:{self.dashboard_port}",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_prestart_worker_first_driver": "0",  # a process for each CPU that a machine pretends to have
        }

    def start(self) -> None:
        """Starts the head; raises `AssertionError` with its last words when it does not come up."""
        config = bootstrap_config()
        (self._folder / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config), "utf-8")
        faked = self._folder / "fake.json"
        faked.write_text(json.dumps(fake_provider(config, self._port)), "utf-8")
        options = {
            "port": self._port,
            "node-ip-address": ray_head.LOOPBACK,
            "num-cpus": 0,
            "object-store-memory": NODE_MEMORY,
            "autoscaling-config": faked,
            "dashboard-port": self.dashboard_port,
            "dashboard-agent-listen-port": 0,
            "min-worker-port": 0,
            "max-worker-port": 0,
            "temp-dir": self._session,
        }
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--disable-usage-stats", *(f"--{name}={value}" for name, value in options.items())]
        hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
        environment = {name: value for name, value in self.environment.items() if name not in hidden}
        log = self._folder / "head.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_DEADLINE_S
        while ray_head.is_free(self.dashboard_port):
            assert self._process.poll() is None, log.read_text("utf-8", errors="replace")
            assert time.monotonic() < deadline, log.read_text("utf-8", errors="replace")
            time.sleep(0.1)

    def drive(self, verb: str, timeout_s: float = 240.0) -> dict[str, Any]:
        """Runs `tests.cloud_driver` on the head; returns what it says in its last line."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.cloud_driver", verb],
            cwd=PROJECT_ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self._logs()}"
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    def _logs(self) -> str:
        """The ends of what the head and its autoscaler have said."""
        logs = [self._folder / "head.log", *self._session.glob("session_latest/logs/monitor*")]
        return "\n".join(f"{log}:\n{log.read_text('utf-8', errors='replace')[-3000:]}" for log in logs)

    def end(self) -> None:
        """Ends the head and all machines."""
        if self._process is not None:
            ray_head.end_head(self._process.pid, self._id)
            self._process.wait(timeout=10)
        shutil.rmtree(self._session, ignore_errors=True)
