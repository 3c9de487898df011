"""Which models a replica holds."""

import asyncio
import threading
from typing import Any, cast

import pytest

from common.classifier import Classifier
from serve.engines import MAX_LOADS, Engines
from tests.fake_backend import settle

SIZES = {"small": {"small": 1}, "medium": {"medium": 4}, "large": {"large": 9}}


class Loader:
    """Counts loads; a model is its own name."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def __call__(self, uri: str) -> Classifier:
        self.loaded.append(uri)
        return cast(Classifier, uri)


def ask(*uris: str, max_bytes: int) -> list[str]:
    """What is loaded when these are asked for one after another."""
    load = Loader()

    async def main() -> None:
        engines = Engines(load, None, SIZES.__getitem__)
        engines.bound(max_bytes)
        for uri in uris:
            await engines.get(uri, 1)

    asyncio.run(main())
    return load.loaded


def test_as_many_stay_as_fit_and_the_least_recently_used_goes() -> None:
    assert ask("small", "medium", "small", "medium", max_bytes=5) == ["small", "medium"]
    assert ask("small", "medium", "small", "large", "small", "medium", max_bytes=10) == [
        "small",
        "medium",
        "large",
        "medium",
    ]


def test_a_model_larger_than_the_bound_is_held_alone() -> None:
    assert ask("large", "large", "small", "large", max_bytes=5) == ["large", "small", "large"]


def test_what_models_have_in_common_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = {f"adapter-{number}": {f"adapter-{number}": 1, "base": 9} for number in range(3)}
    monkeypatch.setattr("tests.unit.test_engines.SIZES", adapters)
    assert ask(*adapters, *adapters, max_bytes=12) == list(adapters)
    assert ask(*adapters, *adapters, max_bytes=11) == [*adapters, *adapters]


def test_a_lower_bound_drops_what_no_longer_fits() -> None:
    load = Loader()

    async def main() -> None:
        engines = Engines(load, None, SIZES.__getitem__)
        engines.bound(20)
        for uri in SIZES:
            await engines.get(uri, 1)
        engines.bound(9)
        for uri in ("large", "medium"):
            await engines.get(uri, 1)

    asyncio.run(main())
    assert load.loaded == [*SIZES, "medium"]


def test_a_model_that_cannot_be_measured_is_tried_again() -> None:
    sizes: dict[str, dict[str, int]] = {}

    async def main() -> Any:
        engines = Engines(Loader(), None, sizes.__getitem__)
        with pytest.raises(KeyError):
            await engines.get("small", 1)
        sizes["small"] = {"small": 1}
        return await engines.get("small", 1)

    assert asyncio.run(main()) == "small"


def test_loads_leave_the_threads_of_the_forward_passes_alone() -> None:
    may_end = threading.Event()

    def load(uri: str) -> Classifier:
        may_end.wait()
        return cast(Classifier, uri)

    async def main() -> str:
        engines = Engines(load, None)
        loads = [asyncio.create_task(engines.get(str(number), 1)) for number in range(64)]
        await settle()
        try:
            async with asyncio.timeout(10):
                return await asyncio.to_thread(lambda: "answered")
        finally:
            may_end.set()
            await asyncio.gather(*loads)

    assert MAX_LOADS < 64
    assert asyncio.run(main()) == "answered"
