"""The Serve deployment that the gateway is: the application, its guard and its figures, put together on the head."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve._private.logging_utils import get_serve_logs_dir

from common.api_keys import KeyRing, keys_path
from serve import recent_requests
from serve.auth import is_loopback, protect
from serve.backend import ServeBackend
from serve.drift import DriftMonitor
from serve.endpoints import Backend, Endpoints
from serve.event_log import EventLog
from serve.gateway import DEADLINE_S, create_app
from serve.gateway_server import GatewayServer, Listener
from serve.metrics import GatewayMetrics
from serve.request_id import RequestId
from serve.request_log import RequestLogs
from serve.routes import Routes
from serve.telemetry import MeasuredBackend, RequestTelemetry


def assemble(backend: Backend, keys: KeyRing, log: EventLog, *, on_loopback: bool) -> FastAPI:
    """The whole gateway in front of `backend`. What is refused is counted too."""
    metrics = GatewayMetrics()
    measured = MeasuredBackend(backend, metrics, log)
    logs = RequestLogs(metrics)
    app = create_app(measured, observers=(logs, DriftMonitor(metrics)))
    endpoints: Endpoints = app.state.endpoints
    measured.sample(endpoints)
    recent_requests.add_routes(Routes(app.router, endpoints, DEADLINE_S), logs.told)
    protect(app, endpoints, keys, on_loopback=on_loopback)
    app.add_middleware(RequestTelemetry, endpoints=endpoints, metrics=metrics, log=log)
    app.add_middleware(RequestId)
    return app


class GatewayReplica:
    """The deployment: one replica on the head node that reserves no CPU and loads no model."""

    def __init__(self) -> None:
        self._endpoints: Endpoints | None = None
        self._server: GatewayServer | None = None

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Listens where the deployment's `user_config` says."""
        if self._server is not None:
            await self._server.stop()
        listener, log = Listener.from_user_config(user_config), EventLog(Path(get_serve_logs_dir()))
        app = assemble(ServeBackend(), KeyRing(keys_path()), log, on_loopback=is_loopback(listener.host))
        self._endpoints = app.state.endpoints
        self._server = GatewayServer(app, listener)
        await self._server.start()

    def check_health(self) -> None:
        """Serve asks this now and then. Raises `RuntimeError` when nothing listens any more."""
        if self._server is not None:
            self._server.check()

    async def health(self, *, look_first: bool = False) -> list[dict[str, Any]]:
        """What `/healthz` tells of the endpoints, for drivers: Ray has let them in, so they need no API key.

        With `look_first` it looks at the deployments however fresh the last look is: one of them has just changed.
        """
        if self._endpoints is None:
            return []
        await (self._endpoints.look_at_deployments() if look_first else self._endpoints.look_again())
        return [health.model_dump() for health in self._endpoints.health()]

    async def __del__(self) -> None:
        """Serve calls this before it ends the replica."""
        if self._server is not None:
            await self._server.stop()
