"""The page at an endpoint's own address, and the list of endpoints at the gateway's: plain files, no build step.

The files hold no secret and nothing of any endpoint: what they show is asked for with the reader's API key. So they
need none, and for whoever may not know which endpoints exist there is a page at every name. They load nothing from
elsewhere, which the content security policy has the browser hold.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request, Response
from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.types import Scope

from serve.endpoints import GATEWAY, Endpoints

FOLDER = Path(__file__).parent / "playground"
CLIENT_FILE = Path(__file__).parent / "client.py"
"""The page offers it for copying."""

TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".py": "text/x-python; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but never shown without asking whether it is the newest
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_NAME = r"[a-z0-9][a-z0-9-]{0,62}"  # as recipes name endpoints
_PAGE_PATH = re.compile(rf"/({_NAME})?")
_FILE_PATH = re.compile(rf"/(?:{_NAME}|{GATEWAY})/page/([a-z_]+\.[a-z]+)")


def add_page_routes(router: APIRouter, endpoints: Endpoints) -> None:
    """`GET /`, `GET /{name}` and their files. A name without an endpoint gets its page too, with the status 404."""

    async def answer(request: Request) -> Response:
        response = page_answer(request.scope)
        if response is None:
            raise HTTPException(404)
        names_endpoint = request.path_params.keys() == {"name"}
        if names_endpoint and request.path_params["name"] not in endpoints.names():
            response.status_code = 404  # of the page alone: a browser runs no script that comes with it
        return response

    for path in ("/", "/{name}", "/{name}/page/{file}"):
        router.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False, response_model=None)


def page_answer(scope: Scope) -> Response | None:
    """The page or the file that a GET or HEAD asks for; None when it asks for something else."""
    if scope["type"] != "http" or scope.get("method") not in ("GET", "HEAD"):
        return None
    path, given = get_route_path(scope), Headers(scope=scope)
    if asked := _PAGE_PATH.fullmatch(path):
        return _response(_page(asked[1] or ""), ".html", given)
    if (asked := _FILE_PATH.fullmatch(path)) and (content := _files().get(asked[1])):
        return _response(content, Path(asked[1]).suffix, given)
    return None


def _response(content: bytes, suffix: str, given: Mapping[str, str]) -> Response:
    etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {**HEADERS, "ETag": etag}
    if etag in given.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, headers={**headers, "Content-Type": TYPES[suffix]})


def _page(name: str) -> bytes:
    """The page of the endpoint `name`; the list of endpoints for an empty name."""
    template = _templates()["page.html" if name else "index.html"]
    filled = template.replace("{{path}}", escape(quote(name or GATEWAY, safe=""))).replace("{{name}}", escape(name))
    return filled.encode()


@cache
def _templates() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.html")}


@cache
def _files() -> dict[str, bytes]:
    """What the pages load, by name."""
    paths = [path for path in FOLDER.iterdir() if path.suffix in TYPES and path.suffix != ".html"]
    return {path.name: path.read_bytes() for path in [*paths, CLIENT_FILE]}
