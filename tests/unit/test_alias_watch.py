"""What the aliases of many endpoints point to, over a registry that counts what it is asked."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from common.errors import RegistryError, TrackingError
from common.registry import AliasTarget, ModelVersion
from serve.alias_watch import AliasWatch
from serve.batching import ServedVersion
from serve.endpoints import EndpointSpec
from tests.fake_backend import SPEC


@dataclass
class FakeRegistry:
    """Aliases of `champion`, by model."""

    champions: dict[str, int]
    made_at: int = 1
    searches: list[set[str]] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    error: Exception | None = None
    on_lookup: Callable[[], None] = lambda: None
    may_search: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_search.set()

    def alias_targets(self, names: Collection[str]) -> dict[tuple[str, str], AliasTarget]:
        self.searches.append(set(names))
        self.may_search.wait()
        if self.error:
            raise self.error
        found = {name: self.champions[name] for name in names if name in self.champions}
        return {(name, "champion"): AliasTarget(version, self.made_at) for name, version in found.items()}

    def by_alias(self, name: str, alias: str) -> ModelVersion:
        self.lookups.append(name)
        self.on_lookup()
        if name not in self.champions:
            raise RegistryError(f"no {name}")
        return ModelVersion(name, self.champions[name], f"/{name}/{self.made_at}", "run")

    def fetchable_uri(self, version: ModelVersion, storage: str, *, with_weights: bool) -> str:
        return f"{version.uri}/{version.version}"


NAMES = ("a", "b", "c")


def spec(model: str) -> EndpointSpec:
    return replace(SPEC, model=model)


def run(registry: FakeRegistry, scenario: Callable[[Any], Awaitable[None]]) -> None:
    """Runs it with a function that asks about models, all at once."""

    async def main() -> None:
        with ThreadPoolExecutor(4) as threads:
            watch = AliasWatch(lambda uri: registry, threads)  # type: ignore[arg-type, return-value]

            async def ask(*models: str) -> list[ServedVersion]:
                return await asyncio.gather(*(watch.resolve(spec(model)) for model in models))

            await scenario(ask)

    asyncio.run(main())


def test_all_are_asked_about_at_once_and_only_what_moved_is_looked_up() -> None:
    registry = FakeRegistry(dict.fromkeys(NAMES, 1))

    async def scenario(ask: Any) -> None:
        first = await ask(*NAMES)
        assert (registry.searches, sorted(registry.lookups)) == ([], ["a", "b", "c"])
        assert await ask(*NAMES) == first
        registry.champions["b"] = 2
        assert await ask(*NAMES) == [first[0], ServedVersion(2, "/b/1/2"), first[2]]
        assert await ask("a") == [first[0]]
        assert registry.searches == [{"a", "b", "c"}, {"a", "b", "c"}, {"a"}]
        assert sorted(registry.lookups) == ["a", "b", "b", "c"]

    run(registry, scenario)


def test_a_model_that_was_made_anew_is_looked_up_though_its_version_is_the_same() -> None:
    registry = FakeRegistry({"a": 1})

    async def scenario(ask: Any) -> None:
        await ask("a")
        await ask("a")
        registry.made_at = 2
        assert await ask("a") == [ServedVersion(1, "/a/2/1")]

    run(registry, scenario)


def test_an_alias_that_moves_between_the_question_and_the_lookup_and_back_is_followed() -> None:
    registry = FakeRegistry({"a": 1})

    async def scenario(ask: Any) -> None:
        await ask("a")
        registry.champions["a"] = 2
        registry.on_lookup = lambda: registry.champions.update(a=3)
        assert await ask("a") == [ServedVersion(3, "/a/1/3")]
        registry.on_lookup = lambda: None
        registry.champions["a"] = 2
        assert await ask("a") == [ServedVersion(2, "/a/1/2")]

    run(registry, scenario)


def test_who_asks_while_a_question_is_open_gets_a_younger_answer() -> None:
    registry = FakeRegistry(dict.fromkeys(NAMES, 1))

    async def scenario(ask: Any) -> None:
        await ask(*NAMES)
        registry.may_search.clear()
        early = asyncio.create_task(ask("a"))
        while not registry.searches:
            await asyncio.sleep(0)
        late = asyncio.create_task(ask("b", "c"))
        await asyncio.sleep(0)
        assert registry.searches == [{"a"}]
        registry.may_search.set()
        await asyncio.gather(early, late)
        assert registry.searches == [{"a"}, {"b", "c"}]

    run(registry, scenario)


def test_what_is_gone_and_who_is_away_are_told_by_the_registrys_own_error() -> None:
    registry = FakeRegistry({"a": 1})

    async def scenario(ask: Any) -> None:
        await ask("a")
        registry.champions.clear()
        with pytest.raises(RegistryError, match="no a"):
            await ask("a")
        registry.error = TrackingError("away")
        with pytest.raises(TrackingError, match="away"):
            await ask("a")

    run(registry, scenario)


def test_a_server_that_cannot_search_is_asked_about_each() -> None:
    registry = FakeRegistry({"a": 1}, error=RegistryError("what is IN?"))

    async def scenario(ask: Any) -> None:
        await ask("a")
        registry.champions["a"] = 2
        assert await ask("a") == [ServedVersion(2, "/a/1/2")]

    run(registry, scenario)
