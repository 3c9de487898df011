"""A Ray head node as a process of its own: it outlives the command that starts it, and ends with all its processes.

The head leads a new session, so that the end of a terminal does not reach it, and listens on loopback alone. All
processes of the cluster, the drivers of submitted jobs among them, inherit a variable that names it, and are known by
that: nothing is ever ended by its name, its number or its place in the tree alone. Ray's logs stay in `session_folder`
until the next head starts.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from common.errors import ClusterError
from common.ray_environment import PROJECT_ROOT, home, own_cluster_environment

LOOPBACK = "127.0.0.1"
CLUSTER_ID_VARIABLE = "TUNESERVE_CLUSTER_ID"
"""Marks the processes of a cluster."""

START_DEADLINE_S = 120.0
END_DEADLINE_S = 10.0

HEAD_ENVIRONMENT = {
    # `stop` interrupts a job as Ctrl-C would, with time to leave a state that can be resumed.
    "RAY_JOB_STOP_SIGNAL": "SIGINT",
    "RAY_JOB_STOP_WAIT_TIME_S": "20",
    # There is no other node to move to.
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_START_HOOK": "common.ray_head.without_client_server",
    # Ray's workers show what they run in their title, and leave the environment readable to `_members`.
    "SPT_NOENV": "1",
}
"""Settings of the head and, because they inherit them, of all processes of the cluster."""

_started: list[subprocess.Popen[bytes]] = []
"""The heads that this process started, kept so that their exit status is collected."""


@dataclass(frozen=True)
class Head:
    """A head that answers."""

    pid: int
    address: str
    dashboard_port: int


def without_client_server(ray_params: Any, head: bool) -> None:  # noqa: ARG001 - Ray's signature
    """Hook of `ray start`: no Ray Client server, for which the command line has no switch and nobody a use here."""
    ray_params.ray_client_server_port = None


def start_head(cluster_id: str, *, num_cpus: int | None, port: int, dashboard_port: int) -> Head:
    """Starts a head and waits until jobs can be submitted to it.

    Args:
        cluster_id: Marks the processes of this cluster.
        num_cpus: CPUs to offer; None offers all that the machine has.
        port: Of the control store; 0 lets Ray choose a free one.
        dashboard_port: Of the dashboard and the Jobs API.

    Raises:
        ClusterError: The head ended or did not answer; nothing is left running.
    """
    folder = session_folder()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    process = _launch(folder, cluster_id, num_cpus, port, dashboard_port)
    try:
        address = _wait_until_ready(process, folder, dashboard_port)
    except BaseException:
        end_head(process.pid, cluster_id)
        raise
    return Head(process.pid, address, dashboard_port)


def session_folder() -> Path:
    """Ray's folder for logs, sockets and unpacked code; below `/tmp`, because a socket's path holds 100 characters.

    Raises:
        ClusterError: Somebody else made a folder of that name.
    """
    # The home folder's inode stands for its path: short, and the same however the path is written.
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"tuneserve-{os.getuid()}-{home().stat().st_ino:x}"
    if folder.is_symlink() or (folder.exists() and folder.stat().st_uid != os.getuid()):
        raise ClusterError(f"{folder} belongs to somebody else; set RAY_TMPDIR to a folder of your own")
    return folder


def log_path() -> Path:
    """Where the head's own output goes."""
    return home() / "head.log"


def _launch(
    folder: Path, cluster_id: str, num_cpus: int | None, port: int, dashboard_port: int
) -> subprocess.Popen[bytes]:
    options = {
        "node-ip-address": LOOPBACK,
        "port": port,
        "include-dashboard": "true",
        "dashboard-host": LOOPBACK,
        "dashboard-port": dashboard_port,
        # 0 is "any free one": Ray's fixed defaults would collide with a second cluster on this machine.
        "dashboard-agent-listen-port": 0,
        "min-worker-port": 0,
        "max-worker-port": 0,
        "temp-dir": folder,
        "log-style": "record",
    }
    if num_cpus is not None:
        options["num-cpus"] = num_cpus
    # -P: a `types.py` in the current folder must not become a module of Ray's.
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start"]
    command += ["--head", "--block", "--no-monitor", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with log_path().open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home(),
            env=_environment(cluster_id),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    return process


def _environment(cluster_id: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"RAY_ADDRESS", "RAY_AUTH_TOKEN"}}
    python_path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    # A job's entry point says `python`: this one, whether its environment is activated or not.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {"PATH": path, "PYTHONPATH": python_path, "TUNESERVE_HOME": str(home()), CLUSTER_ID_VARIABLE: cluster_id}
    return {**inherited, **HEAD_ENVIRONMENT, **own_cluster_environment(), **ours}


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path, dashboard_port: int) -> str:
    """Returns the address of the control store once `ray start` has written it and the Jobs API listens."""
    address_file = folder / "ray_current_cluster"
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ClusterError(f"Ray's head ended while starting: {_last_words()}\nThe whole log: {log_path()}")
        if address_file.exists() and address_file.read_text() and not is_free(dashboard_port):
            return address_file.read_text().strip()
        time.sleep(0.1)
    raise ClusterError(f"Ray's head did not answer within {START_DEADLINE_S:.0f} s; its log: {log_path()}")


def _last_words() -> str:
    lines = [line for line in log_path().read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_head_alive(pid: int, cluster_id: str) -> bool:
    """Whether the head of this cluster still runs under this pid."""
    try:
        process = psutil.Process(pid)
        return _lives(pid) and _is_marked(process, cluster_id)
    except psutil.Error:
        return False


def end_head(pid: int, cluster_id: str) -> int:
    """Ends a head and every process of its cluster, and waits until they are gone.

    The head is asked first, which lets Ray end its own in order; what then remains is terminated, and killed when it
    does not go. Works as well for what a head left behind that was killed itself.

    Returns:
        The number of processes found at the start.

    Raises:
        ClusterError: Some process would not go.
    """
    found = _members(cluster_id)
    if is_head_alive(pid, cluster_id):
        _end([psutil.Process(pid)], signal.SIGTERM)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        _end(_members(cluster_id), sign)
    if remaining := _members(cluster_id):
        names = ", ".join(f"{process.pid} ({process.name()})" for process in remaining)
        raise ClusterError(f"these processes of the cluster do not end: {names}; end them by hand")
    return len(found)


def _members(cluster_id: str) -> list[psutil.Process]:
    """The living processes of a cluster."""
    return [process for process in psutil.process_iter() if _is_marked(process, cluster_id) and _lives(process.pid)]


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _is_marked(process: psutil.Process, cluster_id: str) -> bool:
    try:
        return bool(process.environ().get(CLUSTER_ID_VARIABLE) == cluster_id)
    except (psutil.Error, OSError):
        return False


def _end(processes: Sequence[psutil.Process], sign: signal.Signals) -> None:
    """Signals the processes and waits until they are gone, for a while."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sign)
    deadline = time.monotonic() + END_DEADLINE_S
    while time.monotonic() < deadline and any(process.is_running() and _lives(process.pid) for process in processes):
        for started in _started:
            started.poll()
        time.sleep(0.05)
