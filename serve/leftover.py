"""What requests leave of an endpoint's replicas: the batches of jobs take that, and no more.

A replica classifies one batch at a time, so a request may find one of a job's before it. Those are small therefore, one
for each replica, and begin only when requests have been quiet; but now and then one begins all the same, or an endpoint
that is never quiet would never come to its jobs.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from serve.batching import Answer, Batcher, Send, ServedVersion, Text

BATCH_SIZE = 16
"""Texts in one batch of a job: what a request may have to wait for, some 20 ms of a small encoder on one core."""

QUIET_S = 0.05
"""So long no request may have been at work: a client that asks one text after another is back sooner."""

AT_LEAST_EVERY_S = 1.0
"""A batch begins this long after the one before, also when requests are never quiet."""

LOOK_INTERVAL_S = 0.005


class Leftover:
    """Sends batches beside those of `batcher`, which come first. Belongs to one event loop."""

    def __init__(self, send: Send, batcher: Batcher) -> None:
        self._send = send
        self._batcher = batcher
        self._next = asyncio.Lock()
        self._ended = asyncio.Event()
        self._began_at = 0.0
        self._num_running = 0
        self.num_waiting = 0
        """Batches that wait or are at work."""

    async def classify(self, served: ServedVersion, texts: Sequence[Text]) -> list[Answer]:
        """One answer for each text, once it is its turn: first come, first served. Raises what `send` raises."""
        self.num_waiting += 1
        try:
            async with self._next:
                await self._turn()
                self._num_running += 1
            try:
                return await self._send(served, list(texts))
            finally:
                self._num_running -= 1
                self._ended.set()
        finally:
            self.num_waiting -= 1

    async def _turn(self) -> None:
        while not self._may_begin():
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._ended.wait()
        self._began_at = asyncio.get_running_loop().time()

    def _may_begin(self) -> bool:
        if self._num_running >= max(1, self._batcher.num_replicas):
            return False
        waited_s = asyncio.get_running_loop().time() - self._began_at
        return self._batcher.quiet_s() >= QUIET_S or waited_s >= AT_LEAST_EVERY_S
