"""A job: texts that were handed in together to be classified later, and what became of them."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

import pydantic_core

from serve.batching import Answer, ServedVersion
from serve.leftover import BATCH_SIZE

RETAIN_S = 3600.0
"""How long a job that has ended is kept."""

EXPECTED_BYTES = 256
"""Held free for a text's prediction until that is known."""

SHOWN = ("label", "score", "scores")

State = Literal["waiting", "running", "done", "failed"]


@dataclass(eq=False)
class Job:
    """Texts that were handed in together, and what became of them."""

    id: str
    endpoint: str
    owner: str | None
    """The id of the API key that it came with; None where none was needed."""
    texts: Sequence[str]
    num_texts: int = field(init=False)
    num_answered: int = 0
    state: State = "waiting"
    error: str | None = None
    model: str | None = None
    served: ServedVersion | None = None
    """The version that answers all of it, from its first batch on."""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    expires_at: datetime | None = None
    num_bytes: int = field(init=False)
    """What it holds, or is expected to."""
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    _parts: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.num_texts = len(self.texts)
        self.num_bytes = sum(map(sys.getsizeof, self.texts)) + self.num_texts * EXPECTED_BYTES
        self._parts = [b""] * self.num_batches

    @property
    def num_batches(self) -> int:
        """Batches of its texts."""
        return -(-self.num_texts // BATCH_SIZE)

    def batch(self, number: int) -> Sequence[str]:
        """The texts of one batch, counted from 0."""
        return self.texts[number * BATCH_SIZE : (number + 1) * BATCH_SIZE]

    def take(self, number: int, answers: Sequence[Answer]) -> None:
        """Keeps the predictions of a batch, as JSON."""
        found = [{name: answer[name] for name in SHOWN} for answer in answers]
        self._parts[number] = pydantic_core.to_json(found)[1:-1]
        self.num_answered += len(answers)

    def end(self, error: str | None) -> None:
        """Lets the texts go; of a job that failed the predictions too: half of them are nobody's answer."""
        self.state, self.error = ("done", None) if error is None else ("failed", error)
        self.texts = ()
        self._parts = self._parts if error is None else []
        self.num_bytes = sum(map(len, self._parts))
        self.expires_at = datetime.now(UTC) + timedelta(seconds=RETAIN_S)

    def told(self) -> bytes:
        """What `GET /<name>/jobs/<id>` answers."""
        state = {
            "id": self.id,
            "state": self.state,
            "texts": self.num_texts,
            "answered": self.num_answered,
            "model": self.model,
            "version": self.served and self.served.version,
            "error": self.error,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
        }
        found = pydantic_core.to_json(state)
        if self.state != "done":
            return found
        return b"".join((found[:-1], b',"predictions":[', b",".join(self._parts), b"]}"))
