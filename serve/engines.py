"""The models that a replica holds: loaded when they are asked for, the least recently used dropped."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from common.classifier import Classifier

MAX_LOADS = 2
"""Models loaded at once: more would only delay each other, and the batches of the models that are there."""


@dataclass(eq=False)
class _Engine:
    task: asyncio.Task[Classifier]
    parts: Mapping[str, int] = field(default_factory=dict)
    """Empty until it is measured, just before it is loaded."""


class Engines:
    """Classifiers by (URI, version); each is loaded once, in threads of its own. Belongs to one event loop.

    It holds `num_kept` of them, or, with `parts_of`, as many as `bound` allows: that gives what the one at a URI
    consists of, bytes by a name that is the same for what several hold in common.
    """

    def __init__(
        self,
        load: Callable[[str], Classifier],
        num_kept: int | None,
        parts_of: Callable[[str], Mapping[str, int]] | None = None,
    ) -> None:
        self._load = load
        self._num_kept = num_kept
        self._parts_of = parts_of
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
        if self._parts_of is not None:
            parts = await loop.run_in_executor(self._threads, self._parts_of, uri)
            if engine := self._engines.get(key):
                engine.parts = parts
                self._drop_least_used()
        return await loop.run_in_executor(self._threads, self._load, uri)

    def _drop_least_used(self) -> None:
        while len(self._engines) > 1 and self._holds_too_much():
            self._engines.popitem(last=False)

    def _holds_too_much(self) -> bool:
        parts = {name: size for engine in self._engines.values() for name, size in engine.parts.items()}
        num_bytes = sum(parts.values())
        return (self._num_kept is not None and len(self._engines) > self._num_kept) or (
            self._max_bytes is not None and num_bytes > self._max_bytes
        )
