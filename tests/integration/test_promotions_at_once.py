"""Promotions to one name at once, in processes of their own, from other storages: no alias is lost."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import RegistryError
from common.registry import ModelRegistry
from common.tracking import open_client, sqlite_uri
from tests.movers import RECIPE, add_version, promote_together

START_TIMEOUT_S = 120.0


@pytest.fixture
def uri(tmp_path: Path) -> str:
    uri = sqlite_uri(str(tmp_path))
    open_client(uri).create_registered_model(RECIPE.name)
    return uri


def rolled_back(registry: ModelRegistry) -> Iterator[int]:
    """Where the alias is, and where each rollback leads."""
    yield registry.by_alias(RECIPE.name, "champion").version
    while True:
        try:
            yield registry.rollback(RECIPE.name, "champion")[1]
        except RegistryError:
            return


@pytest.mark.slow
def test_of_promotions_at_once_each_is_judged_against_the_champion_before_it(uri: str, tmp_path: Path) -> None:
    promote_at_once(uri, tmp_path)


def promote_at_once(uri: str, tmp_path: Path) -> None:
    registry = ModelRegistry(uri)
    add_version(uri, tmp_path / "first")
    registry.set_alias(RECIPE.name, "champion", 1)

    context = multiprocessing.get_context("spawn")
    together = context.Barrier(2, timeout=START_TIMEOUT_S)
    other = context.Process(target=promote_together, args=(uri, tmp_path / "other", together))
    other.start()
    promote_together(uri, tmp_path / "one", together)
    other.join()
    assert other.exitcode == 0

    *promoted, first = rolled_back(registry)
    assert first == 1
    assert sorted(promoted) == [2, 3]
    tags = [registry.by_version(RECIPE.name, version).tags for version in promoted]
    judged_against = [json.loads(found["tuneserve.promotion"])["promotion"]["gate"]["champion"] for found in tags]
    assert judged_against == [*promoted[1:], 1]
