"""The gateway: the one ASGI application in front of all endpoints.

It answers health, documentation and every refusal by itself; only texts that a model must see reach a replica, so
nothing else wakes one. It reserves no CPU and loads no model.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from serve.answered import Observer
from serve.auth import PROBE_PATH
from serve.card import add_routes as add_card_route
from serve.docs_page import render
from serve.endpoints import Backend, Endpoints
from serve.exchange import Exchange
from serve.health import EndpointHealth, GatewayHealth
from serve.job_routes import add_routes as add_job_routes
from serve.jobs import Jobs
from serve.page import add_page_routes
from serve.protocols import hugging_face, mlflow_scoring, native, open_inference, text_embeddings_inference
from serve.routes import FAILED, Routes, json_response
from serve.version import own_version

DEADLINE_S = 60.0
"""A request that has no answer by then, the wake included, is told so."""

PROTOCOLS = (native, hugging_face, text_embeddings_inference, open_inference, mlflow_scoring)
"""Each adds its own paths below an endpoint's."""

logger = logging.getLogger(__name__)

_DESCRIPTION = "Text classifiers that sleep when nobody asks: the first request wakes one, idleness removes it."


def create_app(backend: Backend, *, deadline_s: float = DEADLINE_S, observers: Sequence[Observer] = ()) -> FastAPI:
    """The application in front of `backend`. Starting it looks at the deployments once, then follows them.

    `observers` are told of every request whose texts were read.
    """
    endpoints = Endpoints(backend)
    jobs = Jobs(endpoints, observers)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await endpoints.look_at_deployments()
        except Exception as error:  # followed below until it works
            logger.warning("the gateway could not look at its endpoints yet: %s", error)
        followers = [endpoints.follow(), *(observer.follow(endpoints) for observer in observers)]
        following = [asyncio.create_task(follower) for follower in followers]
        yield
        await jobs.close()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)

    app = FastAPI(
        title="tuneserve",
        description=_DESCRIPTION,
        version=own_version(),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.state.endpoints = endpoints
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    _add_gateway_routes(app, endpoints)
    _add_endpoint_routes(endpoints, Routes(app.router, endpoints, deadline_s, observers), jobs)
    return app


def _add_gateway_routes(app: FastAPI, endpoints: Endpoints) -> None:
    @app.get("/healthz", summary="The gateway and all endpoints")
    async def gateway_health() -> GatewayHealth:
        await endpoints.look_again()
        return GatewayHealth(endpoints=endpoints.health())

    @app.get(PROBE_PATH, include_in_schema=False)
    async def probe() -> PlainTextResponse:
        return PlainTextResponse("success")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))

    add_page_routes(app.router, endpoints)  # after the paths above, which are no endpoint's


def _add_endpoint_routes(endpoints: Endpoints, routes: Routes, jobs: Jobs) -> None:
    health = {"model": EndpointHealth, "description": "Its state, replicas and version."}
    routes.get(native.PROTOCOL, "/{name}/healthz", partial(_endpoint_health, endpoints), "How an endpoint is", health)
    add_card_route(routes)
    add_job_routes(routes, jobs)
    for protocol in PROTOCOLS:
        protocol.add_routes(routes)


async def _endpoint_health(endpoints: Endpoints, exchange: Exchange) -> Response:
    await endpoints.look_again()
    return json_response(exchange.endpoint.health())


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return json_response({"error": str(error.detail)}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """What nobody foresaw is told to the log only: its words may hold paths, addresses or texts."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return json_response({"error": FAILED}, 500)
