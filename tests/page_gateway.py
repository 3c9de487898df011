"""A gateway for the tests of the page: it listens, and what is behind it answers by a text's words. Without Ray."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import uvicorn

from common.api_keys import KeyRing, keys_path
from serve.batching import Answer, ServedVersion, Text
from serve.endpoints import Deployment
from serve.event_log import EventLog
from serve.gateway_replica import assemble
from tests.fake_backend import SPEC, FakeBackend

CARD = """---
base_model: org/encoder
model-index:
- name: headlines
  results: [{metrics: [{type: accuracy, value: 0.9287}, {type: macro_f1, value: 0.9285}]}]
---

# headlines

## Intended use

Classifies a **short** text as one of `bearish`, `bullish`. <img src=x onerror=alert(1)> [a link](https://example.com)
[a trap](javascript:alert(1))

| split | rows |
| --- | --- |
| test | 561 |
"""
LABELS = ("bearish", "bullish", "neutral")
AWAKE = Deployment(replace(SPEC, max_queued_requests=100), num_running=1, num_starting=0)
ASLEEP = replace(AWAKE, num_running=0)


def answer(text: Text) -> Answer:
    """Of a text that names a label, that label; of others the last one."""
    label = next((label for label in LABELS if label in text), LABELS[-1])
    scores = {each: 0.8 if each == label else 0.1 for each in LABELS}
    return {"label": label, "score": 0.8, "scores": scores, "logits": (0.0, 0.0, 2.0), "truncated": False}


class Classifying(FakeBackend):
    """Answers by the words of a text, and is awake once it has answered."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        await super().classify(name, served, texts)
        self.deployed[name] = replace(self.deployed[name], num_running=1)
        return [answer(text) for text in texts]


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens, and what is behind it; `tell` has the server's own thread do something."""

    url: str
    backend: Classifying
    loop: asyncio.AbstractEventLoop

    def tell(self, do: Callable[[], Any]) -> None:
        """Does it, and returns when that is done."""
        asyncio.run_coroutine_threadsafe(_done(do), self.loop).result()


async def _done(do: Callable[[], Any]) -> None:
    do()


class Server(uvicorn.Server):
    """Tells its event loop."""

    loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()


Serve = Callable[..., Gateway]
"""Starts a gateway: the fixture `serve`."""


@contextmanager
def listening(folder: Path, news: Deployment, *, on_loopback: bool = True, **others: Deployment) -> Iterator[Gateway]:
    """A gateway in front of the endpoint `news` and these others, with its keys and its log in `folder`."""
    backend = Classifying(deployed={"news": news, **others}, model_card=CARD)
    app = assemble(backend, KeyRing(keys_path()), EventLog(folder), on_loopback=on_loopback)
    server = Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while server.loop is None:
            assert thread.is_alive()
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Gateway(f"http://127.0.0.1:{port}", backend, server.loop)
    finally:
        server.should_exit = True
        thread.join()


ROW = {
    "time": "2026-11-27T05:30:00.123+00:00",
    "text": "<b>bullish</b>",
    "text_pair": None,
    "label": "bullish",
    "score": 0.8,
    "status": 200,
    "version": 3,
    "latency_ms": 41.2,
}
LOGGED = {
    "texts": "plain",
    "dropped": 0,
    "counts": {"label": {"bullish": 2}, "version": {"3": 3}, "status": {"200": 2, "504": 1}},
    "requests": [ROW, {**ROW, "label": None, "score": None, "status": 504}],
}
SIDE = {"version": 3, "requests": 900, "error_rate": 0.0, "latency_p50_s": 0.012, "latency_p95_s": 0.03}
CANARY = {
    "mode": "canary",
    "percent": 10,
    "state": "running",
    "reason": None,
    "compared": 80,
    "min_requests": 200,
    "agreement": 0.975,
    "min_agreement": 0.9,
    "champion": SIDE,
    "candidate": {**SIDE, "version": 4, "requests": 100, "error_rate": None},
    "started_at": "2026-11-27T05:00:00+00:00",
    "problem": None,
}


def answering(path: str, answer: Any) -> str:
    """A script that has the page get `answer` for `path`, laid over what the endpoint itself answers there."""
    return f"""(() => {{
        const asked = window.fetch;
        window.fetch = async (url, options) => {{
            const response = await asked(url, options);
            if (!url.endsWith({path!r})) return response;
            const own = await response.json();
            return new Response(JSON.stringify({{ ...own, ...{json.dumps(answer)} }}));
        }};
    }})()"""
