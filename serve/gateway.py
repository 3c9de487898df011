"""The gateway: the one ASGI application in front of all endpoints.

It answers health, documentation and every refusal by itself; only texts that a model must see reach a replica, so
nothing else wakes one. It reserves no CPU and loads no model.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from common.errors import RegistryError, ServingError
from serve.batching import QueueFullError
from serve.docs_page import render
from serve.endpoints import Backend, Endpoint, Endpoints
from serve.protocols import (
    ClassifyRequest,
    EndpointHealth,
    GatewayHealth,
    OnePrediction,
    Predictions,
    Problem,
    parse_request,
)

DEADLINE_S = 60.0
"""A request that has no answer by then, the wake included, is told so."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A larger body is refused before it is read to the end."""

RETRY_AFTER_S = 1
"""What a client that is turned away for now is asked to wait."""

logger = logging.getLogger(__name__)

_DESCRIPTION = "Text classifiers that sleep when nobody asks: the first request wakes one, idleness removes it."
_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is no endpoint of that name."},
    413: {"model": Problem, "description": "The body is too large, or holds more texts than may wait."},
    422: {"model": Problem, "description": "The body is not one of the three forms."},
    429: {"model": Problem, "description": "Too many texts wait; try again after `Retry-After` seconds."},
    500: {"model": Problem, "description": "The model could not be loaded, or something failed."},
    503: {"model": Problem, "description": "The endpoint has no replica or no model to answer with."},
    504: {"model": Problem, "description": "No answer within the deadline."},
}


def create_app(backend: Backend, *, deadline_s: float = DEADLINE_S) -> FastAPI:
    """The application in front of `backend`. Starting it looks at the deployments once, then follows them."""
    endpoints = Endpoints(backend)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await endpoints.look_at_deployments()
        except Exception as error:  # followed below until it works
            logger.warning("the gateway could not look at its endpoints yet: %s", error)
        following = asyncio.create_task(endpoints.follow())
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    app = FastAPI(
        title="tuneserve",
        description=_DESCRIPTION,
        version=_version(),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from elsewhere
        redoc_url=None,
    )
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    _add_gateway_routes(app, endpoints)
    _add_endpoint_routes(app, endpoints, deadline_s)
    return app


def _add_gateway_routes(app: FastAPI, endpoints: Endpoints) -> None:
    @app.get("/healthz", summary="The gateway and all endpoints")
    async def gateway_health() -> GatewayHealth:
        await endpoints.look_again()
        return GatewayHealth(endpoints=endpoints.health())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(render(app.openapi()))


def _add_endpoint_routes(app: FastAPI, endpoints: Endpoints, deadline_s: float) -> None:
    @app.get("/{name}/healthz", summary="How an endpoint is", responses={404: _REFUSALS[404]})
    async def endpoint_health(name: str) -> EndpointHealth:
        await endpoints.look_again()
        return _endpoint(endpoints, name).health()

    @app.post(
        "/{name}/classify",
        summary="Classify texts",
        response_model=Predictions | OnePrediction,
        responses=_REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ClassifyRequest.model_json_schema()}},
            }
        },
    )
    async def classify(name: str, request: Request) -> JSONResponse:
        endpoint = _endpoint(endpoints, name)
        wanted = await _read(request, endpoint)
        answers, answered_by = await _answers(endpoint, wanted.all_texts, deadline_s)
        common = {"model": endpoint.spec.model, "version": answered_by}
        return JSONResponse({**answers[0], **common} if wanted.wants_one else {"predictions": answers, **common})


def _endpoint(endpoints: Endpoints, name: str) -> Endpoint:
    try:
        return endpoints[name]
    except KeyError:
        there = ", ".join(endpoints.names()) or "none"
        raise HTTPException(404, f"there is no endpoint {name!r}; there are: {there}") from None


async def _read(request: Request, endpoint: Endpoint) -> ClassifyRequest:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(
                413, f"the body is larger than {MAX_BODY_BYTES} bytes; send the texts in several requests"
            )
    try:
        wanted = parse_request(bytes(body))
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    limit = endpoint.spec.max_queued_requests
    if len(wanted.all_texts) > limit:
        raise HTTPException(
            413,
            f"{len(wanted.all_texts)} texts are more than the {limit} that may wait (serve.max_queued_requests); send "
            "them in several requests",
        )
    return wanted


async def _answers(endpoint: Endpoint, texts: list[str], deadline_s: float) -> tuple[list[dict[str, Any]], int]:
    try:
        async with asyncio.timeout(deadline_s):
            return await endpoint.classify(texts)
    except QueueFullError:
        waiting, limit = endpoint.batcher.num_waiting, endpoint.spec.max_queued_requests
        raise HTTPException(
            429,
            f"{waiting} texts wait and {limit} may (serve.max_queued_requests); try again in {RETRY_AFTER_S} s",
            {"Retry-After": str(RETRY_AFTER_S)},
        ) from None
    except TimeoutError:
        state = endpoint.health().state
        raise HTTPException(
            504, f"no answer within {deadline_s:g} s; {endpoint.name!r} is {state}: see `tuneserve status`"
        ) from None
    except RegistryError as error:
        raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER_S)}) from error
    except ServingError as error:
        raise HTTPException(500, str(error)) from error


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """What nobody foresaw is told to the log only: its words may hold paths, addresses or texts."""
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"error": "the gateway failed; its log on the head node says why"}, 500)


def _version() -> str:
    try:
        return version("tuneserve")
    except PackageNotFoundError:  # the code came as an archive
        return "0"
