"""Forming batches in the gateway: one call to a replica carries the texts of many requests.

There is no waiting for a batch to fill. While every slot is taken, texts gather; when one is free, what has gathered
goes. A quiet endpoint therefore answers at once, and a busy one in large batches.
"""

import asyncio
import contextvars
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

MAX_BATCH_SIZE = 64
"""Texts in one call: enough that the call costs little beside the model, few enough that others need not wait long."""

Text = str | tuple[str, str]
"""One text, or a pair of texts that the model reads together."""

Answer = dict[str, Any]
"""`label`, `score`, `scores`, `logits` (in the order of `scores`) and `truncated` of one text."""


@dataclass(frozen=True)
class ServedVersion:
    """The version of a model that answers, and the folder that replicas fetch it from."""

    version: int
    uri: str


Send = Callable[[ServedVersion, list[Text]], Awaitable[list[Answer]]]
"""Has one batch classified by one version."""


class QueueFullError(Exception):
    """More texts wait than the endpoint allows."""


@dataclass(eq=False)
class _Chunk:
    """Texts of one request that stay in one batch."""

    served: ServedVersion
    texts: list[Text]
    answers: asyncio.Future[list[Answer]]
    batch: "_Batch | None" = None


@dataclass(eq=False)
class _Batch:
    chunks: list[_Chunk]
    task: asyncio.Task[None] | None = None

    def cancel_if_unwanted(self) -> None:
        if self.task is not None and all(chunk.answers.done() for chunk in self.chunks):
            self.task.cancel()


class Batcher:
    """The texts that one endpoint has accepted and not answered yet. Belongs to one event loop.

    `batches_per_replica` is what the autoscaler aims for. As many calls are open as the replicas can work on; only full
    batches go beyond that, up to what `max_replicas` can work on, because open calls are what asks for more replicas.
    """

    def __init__(self, send: Send, *, max_waiting: int, batches_per_replica: float, max_replicas: int) -> None:
        self.max_waiting = max_waiting
        self.batches_per_replica = batches_per_replica
        self.max_replicas = max_replicas
        self.num_replicas = 0
        self.num_waiting = 0
        """Texts accepted and not answered yet."""
        self._send = send
        self._queue: deque[_Chunk] = deque()
        self._running: set[_Batch] = set()
        self._ended_at = -math.inf

    async def classify(self, served: ServedVersion, texts: Sequence[Text]) -> list[Answer]:
        """One answer for each text, in their order.

        Raises `QueueFullError` when `texts` would make more than `max_waiting` wait, and what `send` raises. When the
        caller is cancelled, its texts are dropped.
        """
        if self.num_waiting + len(texts) > self.max_waiting:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        parts = [list(texts[start : start + MAX_BATCH_SIZE]) for start in range(0, len(texts), MAX_BATCH_SIZE)]
        chunks = [_Chunk(served, part, loop.create_future()) for part in parts]
        self.num_waiting += len(texts)
        self._queue.extend(chunks)
        self._start_batches()
        try:
            return list(chain.from_iterable(await asyncio.gather(*(chunk.answers for chunk in chunks))))
        finally:
            self.num_waiting -= len(texts)
            self._abandon(chunks)

    def quiet_s(self) -> float:
        """For how many seconds nothing has waited or been at work; 0 while something does."""
        if self._queue or self._running:
            return 0.0
        return asyncio.get_running_loop().time() - self._ended_at

    def close(self, error: Exception) -> None:
        """Fails every text that waits with `error`."""
        for chunk in [*self._queue, *(chunk for batch in self._running for chunk in batch.chunks)]:
            if not chunk.answers.done():
                chunk.answers.set_exception(error)

    def _abandon(self, chunks: Sequence[_Chunk]) -> None:
        for chunk in chunks:
            chunk.answers.cancel()  # without effect on those that are answered
            if chunk.batch is not None:
                chunk.batch.cancel_if_unwanted()

    def _start_batches(self) -> None:
        while chunks := self._next_batch():
            batch = _Batch(chunks)
            for chunk in chunks:
                chunk.batch = batch
            # In a context of its own: Serve cancels the calls that were made in the context of a cancelled request,
            # and a batch belongs to many.
            batch.task = asyncio.create_task(self._run(batch), context=contextvars.Context())
            self._running.add(batch)
            batch.task.add_done_callback(partial(self._ended, batch))

    def _next_batch(self) -> list[_Chunk]:
        while self._queue and self._queue[0].answers.done():
            self._queue.popleft()
        if not self._queue or not self._has_slot():
            return []
        batch = [self._queue.popleft()]
        size = len(batch[0].texts)
        others: list[_Chunk] = []  # of another version, when an alias moves or a canary runs; they keep their place
        while self._queue:
            chunk = self._queue.popleft()
            if chunk.served != batch[0].served:
                others.append(chunk)
            elif not chunk.answers.done():
                size += len(chunk.texts)
                if size > MAX_BATCH_SIZE:
                    others.append(chunk)
                    break
                batch.append(chunk)
        self._queue.extendleft(reversed(others))
        return batch

    def _has_slot(self) -> bool:
        if len(self._running) < self._num_slots(max(1, self.num_replicas)):
            return True
        num_queued = sum(len(chunk.texts) for chunk in self._queue)
        return num_queued >= MAX_BATCH_SIZE and len(self._running) < self._num_slots(self.max_replicas)

    def _num_slots(self, num_replicas: int) -> int:
        return math.ceil(self.batches_per_replica * num_replicas)

    async def _run(self, batch: _Batch) -> None:
        texts = [text for chunk in batch.chunks for text in chunk.texts]
        try:
            answers = iter(await self._send(batch.chunks[0].served, texts))
        except Exception as error:
            for chunk in batch.chunks:
                if not chunk.answers.done():
                    chunk.answers.set_exception(error)
            return
        for chunk in batch.chunks:
            part = [next(answers) for _ in chunk.texts]
            if not chunk.answers.done():
                chunk.answers.set_result(part)

    def _ended(self, batch: _Batch, _task: asyncio.Task[None]) -> None:
        self._running.discard(batch)
        self._ended_at = asyncio.get_running_loop().time()
        self._start_batches()
