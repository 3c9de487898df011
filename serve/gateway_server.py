"""The gateway's own HTTP server, in its replica.

Serve's proxy would be one more process that parses each request and hands it on, message by message: it costs more than
all else that happens to a request of one text. So Serve starts, watches and replaces the gateway, and this listens.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never, Self

import uvicorn
from fastapi import FastAPI

from common.errors import ClusterError

START_CHECK_INTERVAL_S = 0.01
SHUTDOWN_TIMEOUT_S = 5
"""What open requests have when the gateway is replaced."""


@dataclass(frozen=True)
class Tls:
    """What the gateway proves its name with: PEM files on the head node."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raises `ClusterError` unless the two belong together: said here, and not in the log of the gateway only."""

        def refuse_password() -> Never:
            raise ClusterError(f"the key in {self.key} has a password; give one without, readable by its owner alone")

        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
                self.certificate, self.key, password=refuse_password
            )
        except OSError as error:  # ssl.SSLError is one
            raise ClusterError(
                f"{self.certificate} and {self.key} are not a certificate and its key in PEM form ({error})"
            ) from error


@dataclass(frozen=True)
class Listener:
    """Where the gateway listens; Serve keeps it as the deployment's `user_config`."""

    host: str
    port: int
    tls: Tls | None = None

    @property
    def url(self) -> str:
        """What a client on a machine that reaches the host asks."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://[{self.host}]:{self.port}" if ":" in self.host else f"{scheme}://{self.host}:{self.port}"

    def as_user_config(self) -> dict[str, Any]:
        """A JSON object that `from_user_config` reads."""
        tls = self.tls and [str(self.tls.certificate), str(self.tls.key)]
        return {"host": self.host, "port": self.port, "tls": tls}

    @classmethod
    def from_user_config(cls, user_config: dict[str, Any]) -> Self:
        """What `as_user_config` wrote."""
        tls = user_config["tls"]
        return cls(user_config["host"], user_config["port"], Tls(Path(tls[0]), Path(tls[1])) if tls else None)


class GatewayServer:
    """A running server. Belongs to the event loop that it was started on."""

    def __init__(self, app: FastAPI, listener: Listener) -> None:
        self._listener = listener
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            ssl_certfile=listener.tls.certificate if listener.tls else None,
            ssl_keyfile=listener.tls.key if listener.tls else None,
        )
        self._server = uvicorn.Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens, and returns when requests are answered. Raises `OSError` when the port is taken."""
        self._serving = asyncio.create_task(self._server.serve([_bound(self._listener)]))
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise RuntimeError("the gateway's server ended while it started; its log says why")
            await asyncio.sleep(START_CHECK_INTERVAL_S)

    def check(self) -> None:
        """Raises `RuntimeError` when nothing listens any more: Serve then replaces the replica."""
        if self._serving is None or self._serving.done():
            raise RuntimeError(f"nothing listens on {self._listener.host}:{self._listener.port} any more")

    async def stop(self) -> None:
        """Answers what is open, for a while, and closes the port."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving


def _bound(listener: Listener) -> socket.socket:
    """A socket that another gateway may share: the one that replaces this one listens before this one is gone."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((listener.host, listener.port))
    return bound
