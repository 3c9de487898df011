"""`x-request-id` on every answer: the client's own, where it is one that can stand in a log, or a fresh one."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"

REQUEST_ID = "tuneserve.request_id"
"""Where a request's scope holds its id."""

_SANE = re.compile(rb"[\w.:/+=-]{1,128}")


class RequestId:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and adds the header to the beginning of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope[REQUEST_ID] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)


def _request_id(scope: Scope) -> bytes:
    given: bytes = next((value for name, value in scope["headers"] if name == HEADER), b"")
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex.encode()
