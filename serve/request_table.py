"""The request log's table: one row for each text, whatever the protocol that it came in."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC
from typing import Any

import pyarrow as pa

from common.request_log_settings import TextMode
from serve.answered import Answered
from serve.redaction import redact
from serve.text_digest import digest_key, text_digest

SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("ms", "UTC")),  # when the request came
        ("request_id", pa.string()),  # the x-request-id of the answer; the same for all texts of a request
        ("endpoint", pa.string()),
        ("model", pa.string()),  # the registered model's name
        ("version", pa.int32()),  # that answered; of a refusal, that would have
        ("protocol", pa.string()),
        ("status", pa.int16()),
        ("latency_ms", pa.float32()),  # of the whole request, a wake included
        ("text_mode", pa.string()),  # plain, redacted or hashed
        ("text", pa.string()),
        ("text_pair", pa.string()),  # the second text of a pair
        ("label", pa.string()),  # null where there was no answer, as are the next three
        ("score", pa.float64()),  # the probability of `label`
        ("scores", pa.map_(pa.string(), pa.float64())),  # the probability of every label
        ("truncated", pa.bool_()),  # the text had more tokens than the model reads
    ]
)

Row = dict[str, Any]
"""A value for each column of `SCHEMA`; `scores` is a dictionary."""

Protect = Callable[[str], str]
"""From a text to what is kept of it."""


def protection(mode: TextMode, storage: str) -> Protect:
    """What `mode` does to a text. Raises `OSError` where it needs the storage's key and that cannot be read."""
    if mode == "hashed":
        key = digest_key(storage)
        return lambda text: text_digest(key, text)
    return redact if mode == "redacted" else lambda text: text


def rows(seen: Answered, mode: TextMode, protect: Protect) -> Iterator[Row]:
    """A row for each text of a request."""
    shared = {
        "time": seen.at,
        "request_id": seen.request_id,
        "endpoint": seen.endpoint,
        "model": seen.spec.model,
        "version": seen.version,
        "protocol": seen.protocol,
        "status": seen.status,
        "latency_ms": round(1000 * seen.latency_s, 3),
        "text_mode": mode,
    }
    for text, answer in zip(seen.texts, seen.answers or [{}] * len(seen.texts), strict=True):
        first, second = (text, None) if isinstance(text, str) else text
        yield {
            **shared,
            "text": protect(first),
            "text_pair": None if second is None else protect(second),
            **{name: answer.get(name) for name in ("label", "score", "scores", "truncated")},
        }


def table(found: Sequence[Row]) -> pa.Table:
    """The rows as a table."""
    columns = {name: [row[name] for row in found] for name in SCHEMA.names}
    columns["scores"] = [None if scores is None else list(scores.items()) for scores in columns["scores"]]
    return pa.table(columns, schema=SCHEMA)


def from_table(found: pa.Table) -> Iterable[Row]:
    """The rows of a table."""
    for row in found.to_pylist():
        row["time"] = row["time"].astimezone(UTC)
        row["scores"] = None if row["scores"] is None else dict(row["scores"])
        yield row


def shown(row: Row) -> Row:
    """The row as JSON has it."""
    return {**row, "time": row["time"].isoformat(timespec="milliseconds")}
