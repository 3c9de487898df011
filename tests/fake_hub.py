"""A Hugging Face Hub on loopback with one gated model and one gated data set, which a token opens."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.http_server import serving
from tests.hub_cache import COMMIT

TOKEN = "hf_opens_the_gate"


@dataclass
class FakeHub:
    """Repositories by their path (`org/model`, `datasets/org/news`): their files at one commit, `main`."""

    repositories: Mapping[str, Mapping[str, bytes]]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The paths that were asked for."""


@contextmanager
def fake_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[FakeHub]:
    """Serves repositories to whoever shows `TOKEN`; anybody else is told that they are gated."""
    hub = FakeHub(repositories)
    with serving(type("Handler", (_Handler,), {"hub": hub})) as hub.url:
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(path)
        if path == "/":
            self._send(200, b"")
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"", **{"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        else:
            name = next((name for name in self.hub.repositories if f"/{name}" in path or f"/models/{name}" in path), "")
            self._of_repository(self.hub.repositories.get(name, {}), name, path)

    def _of_repository(self, files: Mapping[str, bytes], name: str, path: str) -> None:
        if "/resolve/" in path:
            content = files.get(path.partition("/resolve/")[2].partition("/")[2])
            if content is None:
                self._send(404, b"", **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            else:
                etag = hashlib.sha256(content).hexdigest()
                self._send(200, content, **{"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        elif "/tree/" in path or "/paths-info/" in path:
            self._json([_entry(file, content) for file, content in files.items()] if _is_root(path) else [])
        else:
            siblings = [{"rfilename": file} for file in files]
            self._json({"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings, "gated": "auto"})

    def _json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), **{"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _is_root(path: str) -> bool:
    """Whether a listing is of the whole repository at a revision and not of a folder in it."""
    return "/paths-info/" in path or "/" not in path.partition("/tree/")[2]


def _entry(file: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
