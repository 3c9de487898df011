"""Which versions the aliases of many endpoints point to, without asking the registry about each of them.

The gateway wants to know that of every endpoint every two seconds. Whoever asks while a question to a tracking server
is open shares the next one, which is about all their models at once; only an alias that moved is looked up by itself.
"""

import asyncio
import contextvars
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import RegistryError
from serve.batching import ServedVersion
from serve.endpoints import EndpointSpec

if TYPE_CHECKING:
    from common.registry import AliasTarget, ModelRegistry, ModelVersion


@dataclass(frozen=True)
class _Known:
    served: ServedVersion
    target: "AliasTarget | None"
    """What the alias pointed to just before this was looked up; None until the registry has been asked about all."""


Targets = dict[tuple[str, str], "AliasTarget"]
"""What aliases point to, by model and alias."""


class AliasWatch:
    """What the aliases of endpoints point to. `threads` run the registry's calls, which block."""

    def __init__(self, registry: "Callable[[str], ModelRegistry]", threads: Executor) -> None:
        self._registry = registry
        self._threads = threads
        self._known: dict[tuple[str, ...], _Known] = {}
        self._wanted: dict[str, set[str]] = {}
        self._next: dict[str, asyncio.Task[Targets]] = {}
        self._open = defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def resolve(self, spec: EndpointSpec) -> ServedVersion:
        """The version that the endpoint's alias points to now, and its files. Raises what `common.registry` raises."""
        key = (spec.tracking_uri, spec.model, spec.alias, spec.storage, str(spec.num_gpus > 0))
        known = self._known.get(key)
        target = (await self._targets(spec)).get((spec.model, spec.alias)) if known else None
        if known and target and known.target in (None, target) and target.version == known.served.version:
            self._known[key] = _Known(known.served, target)
            return known.served
        served = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, spec)
        self._known[key] = _Known(served, target)
        return served

    def _look_up(self, spec: EndpointSpec) -> ServedVersion:
        registry = self._registry(spec.tracking_uri)
        return served_version(registry, registry.by_alias(spec.model, spec.alias), spec)

    async def _targets(self, spec: EndpointSpec) -> Targets:
        """What a question that is asked from now on finds; others may wait for the same one."""
        uri = spec.tracking_uri
        self._wanted.setdefault(uri, set()).add(spec.model)
        if uri not in self._next:
            # In a context of its own: it belongs to many.
            self._next[uri] = asyncio.create_task(self._ask(uri), context=contextvars.Context())
        return await asyncio.shield(self._next[uri])

    async def _ask(self, uri: str) -> Targets:
        async with self._open[uri]:
            del self._next[uri]  # who comes from here on wants an answer that is younger
            models = self._wanted.pop(uri)
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, lambda: self._registry(uri).alias_targets(models)
                )
            except RegistryError:  # a server that cannot search like this: each of them is looked up
                return {}


def served_version(registry: "ModelRegistry", version: "ModelVersion", spec: EndpointSpec) -> ServedVersion:
    """A version as the endpoint's replicas fetch it. Raises what `common.registry` raises."""
    uri = registry.fetchable_uri(version, spec.storage, with_weights=spec.num_gpus > 0)
    return ServedVersion(version.version, uri)
