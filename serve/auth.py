"""Who may ask what: a middleware that lets nobody without a valid API key past, where keys are needed.

An endpoint's `serve.auth` decides: `required` and `none` say so themselves, `auto` needs a key unless the gateway
listens on loopback alone. To read what others asked needs one also where asking needs none. What is the gateway's own
goes by `auto`. Refusals wake nothing and tell a stranger nothing: not even whether an endpoint exists.
"""

import ipaddress
import logging
from collections.abc import Callable

from fastapi import FastAPI
from starlette._utils import get_route_path
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from common.api_keys import KeyRing
from common.errors import InputError
from common.recipe import AuthMode
from serve.endpoints import Endpoints
from serve.health import GatewayHealth
from serve.page import page_answer
from serve.protocols.native import Problem
from serve.recent_requests import REQUESTS_PATH

HEALTH_PATH = "/healthz"
PROBE_PATH = "/-/healthz"
"""Where Ray Serve's own proxies say that they are well, and KubeRay and load balancers look."""

OPEN_PATHS = {"/docs", "/openapi.json", PROBE_PATH}
"""How to ask, which is the same everywhere, and that the gateway answers; none of them names an endpoint."""

KEY_NAME = "tuneserve.api_key_name"
"""Where a request's scope holds the name of the key that it came with."""

KEY_ID = "tuneserve.api_key_id"
"""The same of the key's id, which no other key ever has; a name may be given again."""

logger = logging.getLogger(__name__)

_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key: `tuneserve keys create NAME`."}
_REFUSALS = {"401": "No API key that is valid, where one is needed.", "403": "The API key does not open this endpoint."}


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` can be reached from its own machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def endpoint_in(scope: Scope) -> str:
    """The name of the endpoint in a request's path, as the routes have it; a word of the gateway's own, like `healthz`,
    is the name of no endpoint."""
    return get_route_path(scope).removeprefix("/").partition("/")[0]


def protect(app: FastAPI, endpoints: Endpoints, keys: KeyRing, *, on_loopback: bool) -> None:
    """Puts the middleware in front of the gateway `app`, and the keys into its OpenAPI document."""

    def mode_of(name: str) -> AuthMode:
        try:
            return endpoints[name].spec.auth
        except KeyError:
            return "auto"

    app.add_middleware(Authentication, keys=keys, mode_of=mode_of, on_loopback=on_loopback)
    document = app.openapi()
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes["ApiKey"] = _SCHEME
    schema = {"application/json": {"schema": Problem.model_json_schema()}}
    for path, operations in document["paths"].items():
        if path != HEALTH_PATH:
            for operation in operations.values():
                operation["security"] = [{"ApiKey": []}, {}]  # none at all is enough on loopback
                for status, description in _REFUSALS.items():
                    operation["responses"].setdefault(status, {"description": description, "content": schema})


class Authentication:
    """The middleware. It is plain ASGI: Starlette's `BaseHTTPMiddleware` costs a task and a stream for each request."""

    def __init__(self, app: ASGIApp, *, keys: KeyRing, mode_of: Callable[[str], AuthMode], on_loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._mode_of = mode_of
        self._on_loopback = on_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, or refuses it."""
        refusal = None if scope["type"] == "lifespan" else self._refusal(scope)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path = get_route_path(scope)
        endpoint = endpoint_in(scope)
        if path in OPEN_PATHS or not self._needs_key(endpoint, path):
            return None
        refusal = self._refusal_of_key(scope, endpoint)
        if refusal is not None and path == HEALTH_PATH:
            return JSONResponse(GatewayHealth(endpoints=[]).model_dump())
        # A page is the same whether or not there is an endpoint, and asks its reader for the key.
        return refusal and (page_answer(scope) or refusal)

    def _needs_key(self, endpoint: str, path: str) -> bool:
        mode = self._mode_of(endpoint)
        if mode == "none" and path.startswith(f"/{endpoint}{REQUESTS_PATH}"):
            return True  # whoever may ask may not therefore read what others asked
        return not self._on_loopback if mode == "auto" else mode == "required"

    def _refusal_of_key(self, scope: Scope, endpoint: str) -> JSONResponse | None:
        presented = _bearer_token(scope)
        if presented is None:
            return _refuse(401, "an API key is needed: send the header `Authorization: Bearer KEY`", "")
        try:
            key = self._keys.find(presented)
        except InputError as error:
            logger.error("every request is refused: %s", error)
            return JSONResponse({"error": "the gateway cannot read its API keys; its log on the head says why"}, 503)
        if key is None:
            return _refuse(401, "this API key is unknown, revoked or expired", 'error="invalid_token"')
        scope[KEY_NAME], scope[KEY_ID] = key.name, key.key_id
        if not key.opens(endpoint):
            return _refuse(403, f"the API key {key.name!r} does not open {endpoint!r}", 'error="insufficient_scope"')
        return None


def _bearer_token(scope: Scope) -> str | None:
    """The key in the request's `Authorization` header; None without one, or with one of another scheme."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def _refuse(status: int, error: str, challenge: str) -> JSONResponse:
    """As RFC 6750 has it: which kind of key is wanted, and what is wrong with the one that came."""
    parameters = ", ".join(filter(None, ['realm="tuneserve"', challenge]))
    return JSONResponse({"error": error}, status, {"WWW-Authenticate": f"Bearer {parameters}"})
