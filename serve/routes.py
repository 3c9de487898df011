"""Routes of the endpoints: FastAPI describes them, and adds nothing to a request."""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic_core
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from serve.answered import Observer, tell
from serve.endpoints import Endpoint, Endpoints
from serve.exchange import Exchange, RefusedError

VERSION_HEADER = "X-Model-Version"
"""The version that answered; on other answers, the one that would."""

FAILED = "the gateway failed; its log on the head node says why"

Handler = Callable[[Exchange], Awaitable[Response]]

STATUSES = {
    404: "There is no endpoint of that name, or no such model.",
    413: "The body is too large, holds more texts than may wait, or a text that is too long.",
    415: "The body is of another content type.",
    422: "The body is not what the protocol asks for.",
    429: "Too many texts wait; try again after `Retry-After` seconds.",
    500: "The model could not be loaded, or something failed.",
    503: "The endpoint has no replica or no model to answer with.",
    504: "No answer in time.",
}
"""What a refusal's status means, in every protocol that keeps it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protocol:
    """What is the same for all routes of a protocol; `refuse` gives a refusal the protocol's own shape."""

    name: str
    refuse: Callable[[RefusedError], Response]
    error_schema: Mapping[str, Any]
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Where the protocol's clients expect another status: from ours to theirs."""
    own_refusals: Mapping[int, str] = field(default_factory=dict)
    """Statuses that are the protocol's alone, and what they mean."""

    def documented_refusals(self, statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
        """The refusals for OpenAPI, by the status that the client sees."""
        seen: dict[int | str, list[str]] = {}
        for status in statuses:
            seen.setdefault(self.statuses.get(status, status), []).append(STATUSES[status])
        for status, means in self.own_refusals.items():
            seen.setdefault(status, []).append(means)
        content = {"application/json": {"schema": dict(self.error_schema)}}
        return {status: {"description": " ".join(said), "content": content} for status, said in seen.items()}


class PlainRoute(APIRoute):
    """Calls its function with the request and sends what it returns: no dependencies, validation or serialisation."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function itself."""
        return self.endpoint


class Routes:
    """Adds routes below `/{name}` to `router`."""

    def __init__(
        self, router: APIRouter, endpoints: Endpoints, deadline_s: float, observers: Sequence[Observer] = ()
    ) -> None:
        self._router = router
        self._endpoints = endpoints
        self._deadline_s = deadline_s
        self._observers = observers

    def get(self, protocol: Protocol, path: str, handler: Handler, summary: str, answer: Mapping[str, Any]) -> None:
        """A question about the endpoint; wakes nothing. `answer` is OpenAPI's description of the 200."""
        self._add("GET", protocol, path, handler, summary, {200: dict(answer)}, refusals=(404, 500, 503, 504))

    def delete(self, protocol: Protocol, path: str, handler: Handler, summary: str, answer: Mapping[str, Any]) -> None:
        """Removes something of the endpoint's; wakes nothing. `answer` is OpenAPI's description of the 204."""
        self._add("DELETE", protocol, path, handler, summary, {204: dict(answer)}, refusals=(404, 500))

    def post(
        self,
        protocol: Protocol,
        path: str,
        handler: Handler,
        summary: str,
        answer: Mapping[str, Any],
        body: Mapping[str, Any],
        status: int = 200,
    ) -> None:
        """Texts to classify. `body` is OpenAPI's content of the request, by media type."""
        self._add("POST", protocol, path, handler, summary, {status: dict(answer)}, tuple(STATUSES), body)

    def _add(
        self,
        method: str,
        protocol: Protocol,
        path: str,
        handler: Handler,
        summary: str,
        answers: Mapping[int | str, dict[str, Any]],
        refusals: Sequence[int],
        body: Mapping[str, Any] | None = None,
    ) -> None:
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        extra: dict[str, Any] = {"parameters": [_path_parameter(name) for name in names]}
        if body is not None:
            extra["requestBody"] = {"required": True, "content": dict(body)}
        self._router.add_api_route(
            path,
            self._answering(protocol, handler),
            methods=[method],
            status_code=next(iter(answers)),  # or a 200 would be described as well
            summary=summary,
            tags=[protocol.name],
            responses={**answers, **protocol.documented_refusals(refusals)},
            openapi_extra=extra,
            name=f"{protocol.name} {path}",
            response_class=Response,  # or an answer without a body would be described as JSON
            route_class_override=PlainRoute,
        )

    def _answering(self, protocol: Protocol, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            exchange, status = None, 200
            try:
                exchange = Exchange(request, self._endpoint(request.path_params["name"]), self._deadline_s)
                response = await handler(exchange)
            except RefusedError as refusal:
                status, response = refusal.status, protocol.refuse(refusal)
            except Exception as error:
                # What nobody foresaw is told to the log only: its words may hold paths, addresses or texts.
                logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
                status, response = 500, protocol.refuse(RefusedError(500, FAILED))
            if exchange is not None and exchange.version is not None:
                response.headers[VERSION_HEADER] = str(exchange.version)
            if exchange is not None and exchange.texts:
                tell(self._observers, exchange.answered(protocol.name, status))
            return response

        return answer

    def _endpoint(self, name: str) -> Endpoint:
        try:
            return self._endpoints[name]
        except KeyError:
            there = ", ".join(self._endpoints.names()) or "none"
            raise RefusedError(404, f"there is no endpoint {name!r}; there are: {there}") from None


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(pydantic_core.to_json(content), status, headers, "application/json")


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
