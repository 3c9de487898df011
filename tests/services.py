"""Real services for tests: started on free loopback ports, ended by their process, reached through a gate."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from common.ray_head import LOOPBACK, free_port

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120.0
S3_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True)
class Listening:
    """A server that takes connections."""

    pid: int
    port: int


class Gate:
    """A port that leads to another one, or, while it is closed, hangs up on everybody."""

    def __init__(self) -> None:
        self.is_open = True
        self.target_port: int | None = None
        self.unanswered: bytes | None = None
        """The beginning of the next request whose answer is lost."""
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self._joined: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends all connections and takes no new ones until `open`."""
        self.is_open = False
        for end in self._joined:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Lets new connections in."""
        self.is_open = True

    def end(self) -> None:
        """Gives the port back."""
        self.close()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                if not self.is_open or self.target_port is None:
                    raise OSError
                server = socket.create_connection((LOOPBACK, self.target_port))
            except OSError:
                client.close()
                continue
            self._joined += [client, server]
            is_lost = threading.Event()
            threading.Thread(target=self._ask, args=(client, server, is_lost), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, is_lost), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, is_lost: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.unanswered and data.startswith(self.unanswered):
                    self.unanswered = None
                    is_lost.set()  # the server gets all of the request, the client nothing of the answer
                server.sendall(data)
        self._hang_up(client, server)

    def _pass_on(self, server: socket.socket, client: socket.socket, is_lost: threading.Event) -> None:
        with suppress(OSError):
            while (data := server.recv(65536)) and not is_lost.is_set():
                client.sendall(data)
        self._hang_up(client, server)

    def _hang_up(self, *ends: socket.socket) -> None:
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def server(
    command: Sequence[str], port: int, log: Path, *, stop: signal.Signals = signal.SIGTERM, **options: Any
) -> Iterator[int]:
    """Runs a server until the block ends; yields its pid once its port takes connections. Options are `Popen`'s."""
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options) as process,
    ):
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield process.pid
        finally:
            process.send_signal(stop)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection((LOOPBACK, port)).close()
        return True
    return False


def read_until(words: str, output: IO[str] | None) -> str:
    """What a process has said once it has said these words, which it must say."""
    assert output is not None
    said = ""
    while words not in said:
        line = output.readline()
        assert line, said
        said += line
    return said


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """moto's S3; yields its port."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", LOOPBACK, "-p", str(port)]
    with server(command, port, log):
        yield port


def postgres_programs() -> Path | None:
    """The folder of the programs of the newest PostgreSQL here; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres(programs: Path, password: str) -> Iterator[str]:
    """A PostgreSQL server with a user and a database `mlflow`, as a URI with the password."""
    port = free_port()
    # Not below pytest's folders: PostgreSQL does not run as root, and they are closed to others.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        data, secret = f"{folder}/data", Path(folder) / "password"
        secret.write_text(password)
        if user:
            for path in (folder, secret):
                shutil.chown(path, "postgres")
        setup = [programs / "initdb", "--pgdata", data, "--username", "mlflow", "--pwfile", secret, "--no-sync"]
        subprocess.run([*setup, "--auth=scram-sha-256"], check=True, capture_output=True, cwd="/", **user)
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off")
        command = [str(programs / "postgres"), "-D", data, "-p", str(port), *(f"--{setting}" for setting in settings)]
        uri = f"postgresql://mlflow:{quote(password, safe='')}@{LOOPBACK}:{port}"
        with server(command, port, Path(folder) / "log", stop=signal.SIGINT, **user):
            ready = [programs / "pg_isready", "--quiet", "--host", LOOPBACK, "--port", str(port), "--timeout", "5"]
            while subprocess.run(ready, cwd="/").returncode == 1:  # it listens, and is starting up
                time.sleep(0.05)
            create = [programs / "createdb", "--maintenance-db", f"{uri}/postgres", "mlflow"]
            subprocess.run(create, check=True, cwd="/")
            yield f"{uri}/mlflow"


@contextmanager
def tracking_server(database: str, folder: Path, admin_password: str) -> Iterator[Listening]:
    """MLflow as `scripts/mlflow-server` starts it, with its artifacts in `folder`."""
    port = free_port()
    given = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": admin_password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-tests",
        "TUNESERVE_HOME": str(folder / "home"),
    }
    command = [str(ROOT / "scripts" / "mlflow-server"), "--port", str(port), "--workers", "1"]
    with server(command, port, folder / "log", env={**os.environ, **given}) as pid:
        yield Listening(pid, port)
