"""The models that a replica holds: loaded when they are asked for, the least recently used dropped."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from common.classifier import Classifier

MAX_LOADS = 2
"""Models loaded at once: more would only delay each other, and the batches of the models that are there."""


@dataclass(eq=False)
class _Engine:
    task: asyncio.Task[Classifier]
    num_bytes: int = 0
    """0 until it is measured, just before it is loaded."""


class Engines:
    """Classifiers by (URI, version); each is loaded once, in threads of its own. Belongs to one event loop.

    It holds `num_kept` of them, or, with `size` (the bytes that the one at a URI takes), as many as `bound` allows.
    """

    def __init__(
        self, load: Callable[[str], Classifier], num_kept: int | None, size: Callable[[str], int] | None = None
    ) -> None:
        self._load = load
        self._num_kept = num_kept
        self._size = size
        self._max_bytes: int | None = None
        self._engines: OrderedDict[tuple[str, int], _Engine] = OrderedDict()
        # Not those of the forward passes, which many loads at once would hold up.
        self._threads = ThreadPoolExecutor(MAX_LOADS, thread_name_prefix="load")

    def bound(self, max_bytes: int) -> None:
        """Has them hold no more than this from now on. A single one that is larger is held all the same."""
        self._max_bytes = max_bytes
        self._drop_least_used()

    async def get(self, uri: str, version: int) -> Classifier:
        """The classifier at `uri`. Raises what `load` raises; the next call then tries again."""
        key = (uri, version)
        engine = self._engines.get(key)
        if engine is None:
            engine = self._engines[key] = _Engine(asyncio.create_task(self._loaded(uri, key)))
        self._engines.move_to_end(key)
        self._drop_least_used()
        try:
            # A caller that goes away must not take the load with it: others wait for the same version.
            return await asyncio.shield(engine.task)
        except Exception:
            if self._engines.get(key) is engine:
                del self._engines[key]
            raise

    def drop(self, uri: str, version: int) -> None:
        """Forgets a classifier; batches that it is at work on end as usual."""
        self._engines.pop((uri, version), None)

    async def _loaded(self, uri: str, key: tuple[str, int]) -> Classifier:
        loop = asyncio.get_running_loop()
        if self._size is not None:
            num_bytes = await loop.run_in_executor(self._threads, self._size, uri)
            if engine := self._engines.get(key):
                engine.num_bytes = num_bytes
                self._drop_least_used()
        return await loop.run_in_executor(self._threads, self._load, uri)

    def _drop_least_used(self) -> None:
        while len(self._engines) > 1 and self._holds_too_much():
            self._engines.popitem(last=False)

    def _holds_too_much(self) -> bool:
        num_bytes = sum(engine.num_bytes for engine in self._engines.values())
        return (self._num_kept is not None and len(self._engines) > self._num_kept) or (
            self._max_bytes is not None and num_bytes > self._max_bytes
        )
