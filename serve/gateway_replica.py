"""The Serve deployment that the gateway is: the application, its guard and its figures, put together on the head."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray.serve._private.logging_utils import get_serve_logs_dir

from common.api_keys import KeyRing, keys_path
from serve.auth import protect
from serve.backend import ServeBackend
from serve.endpoints import Backend, Endpoints
from serve.event_log import EventLog
from serve.gateway import create_app
from serve.metrics import GatewayMetrics
from serve.telemetry import MeasuredBackend, RequestTelemetry


def assemble(backend: Backend, keys: KeyRing, log: EventLog, *, on_loopback: bool) -> FastAPI:
    """The whole gateway in front of `backend`. What is refused is counted too."""
    metrics = GatewayMetrics()
    measured = MeasuredBackend(backend, metrics, log)
    app = create_app(measured)
    endpoints: Endpoints = app.state.endpoints
    measured.sample(endpoints)
    protect(app, endpoints, keys, on_loopback=on_loopback)
    app.add_middleware(RequestTelemetry, endpoints=endpoints, metrics=metrics, log=log)
    return app


class GatewayReplica:
    """The deployment. `on_loopback` says whether Serve's proxy listens on loopback alone."""

    def __init__(self, on_loopback: bool) -> None:
        log = EventLog(Path(get_serve_logs_dir()))
        self._gateway = assemble(ServeBackend(), KeyRing(keys_path()), log, on_loopback=on_loopback)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """What Serve sends HTTP requests to."""
        return self._gateway

    async def health(self) -> list[dict[str, Any]]:
        """What `/healthz` tells of the endpoints, for drivers: Ray has let them in, so they need no API key."""
        endpoints: Endpoints = self._gateway.state.endpoints
        await endpoints.look_again()
        return [health.model_dump() for health in endpoints.health()]
