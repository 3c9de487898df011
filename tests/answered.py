"""Requests as the gateway tells its observers of them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from common.request_log_settings import RequestLog
from serve.answered import Answered
from serve.batching import Answer
from tests.fake_backend import SPEC

AT = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def answer(label: str, score: float = 0.75) -> Answer:
    """An answer of a model that knows `good` and `bad`."""
    other = {"good": "bad", "bad": "good"}[label]
    return {"label": label, "score": score, "scores": {other: 1 - score, label: score}, "truncated": False}


def answered(*texts: Any, storage: str = "/storage", log: RequestLog | None = None, **changes: Any) -> Answered:
    """A request whose texts were all found `good`, unless `changes` say otherwise."""
    seen = Answered(
        endpoint="news",
        spec=replace(SPEC, storage=storage, request_log=log),
        protocol="classify",
        request_id="mine",
        at=AT,
        latency_s=0.0125,
        status=200,
        version=3,
        texts=texts,
        answers=[answer("good") for _ in texts],
    )
    return replace(seen, **changes)
