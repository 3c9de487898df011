"""The last texts of an endpoint and counts of all since the gateway started, in its memory: `GET /<name>/requests`.

Only where the endpoint keeps a request log, and with its texts as that log keeps them.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fastapi import Response

from serve.endpoints import Endpoint
from serve.exchange import Exchange, RefusedError
from serve.protocols import native
from serve.request_table import Row, shown
from serve.routes import Routes, json_response

NUM_KEPT = 100

MAX_SHOWN_CHARS = 500
"""A longer text is shown by its beginning: hundreds of long ones would make a slow answer."""

COUNTED = ("label", "version", "status")

REQUESTS_PATH = "/requests"
"""Below an endpoint's."""


class RecentRequests:
    """What one endpoint was asked. May be used from several threads."""

    def __init__(self, num_kept: int = NUM_KEPT) -> None:
        self._lock = threading.Lock()
        self._rows: deque[Row] = deque(maxlen=num_kept)
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}

    def add(self, rows: Sequence[Row]) -> None:
        """Takes the rows of one request, whose texts are as the log keeps them."""
        with self._lock:
            self._rows.extend(map(_shortened, rows))
            for name, counter in self._counts.items():
                counter.update(str(row[name]) for row in rows if row[name] is not None)

    def told(self) -> dict[str, Any]:
        """`requests` (one for each text, the newest first) and `counts` of texts by label, version and status."""
        with self._lock:
            rows, counts = list(self._rows), {name: dict(counter) for name, counter in self._counts.items()}
        return {"counts": counts, "requests": [shown(row) for row in reversed(rows)]}


def _shortened(row: Row) -> Row:
    texts = {name: row[name] and row[name][:MAX_SHOWN_CHARS] for name in ("text", "text_pair")}
    return {**row, **texts}


Told = Callable[[Endpoint], dict[str, Any] | None]
"""From an endpoint to what `GET /<name>/requests` answers; None where it keeps no log."""

_COUNTS = {"type": "object", "additionalProperties": {"type": "integer"}}
_ANSWER = {
    "description": "The last texts, the newest first, and how many there were since the gateway started.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["texts", "dropped", "counts", "requests"],
                "properties": {
                    "texts": {"enum": ["plain", "redacted", "hashed"]},
                    "dropped": {"type": "integer", "description": "Texts that could not be logged."},
                    "counts": {"type": "object", "properties": dict.fromkeys(COUNTED, _COUNTS)},
                    "requests": {"type": "array", "items": {"type": "object"}},
                },
            }
        }
    },
}


def add_routes(routes: Routes, told: Told) -> None:
    """`GET /{name}/requests`; wakes nothing."""
    path = f"/{{name}}{REQUESTS_PATH}"
    routes.get(native.PROTOCOL, path, partial(_requests, told), "What an endpoint was asked", _ANSWER)


async def _requests(told: Told, exchange: Exchange) -> Response:
    found = told(exchange.endpoint)
    if found is None:
        raise RefusedError(404, f"{exchange.endpoint.name!r} keeps no request log; set serve.request_log in its recipe")
    return json_response(found)
