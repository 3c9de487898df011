"""Which version may stand beside a champion, and how the end of that is kept in a registry."""

import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError, RegistryError
from common.recipe import Recipe
from common.registry import ModelRegistry
from common.tracking import sqlite_uri
from serve.canary_record import conclude, outcome_of
from serve.canary_settings import CanarySettings, Mode
from serve.candidate import plan_canary
from serve.comparison import Side
from serve.endpoints import EndpointSpec
from serve.health import CanaryHealth, CanaryState, VersionHealth
from tests.fake_backend import SPEC
from tests.tiny_model import register

_NUMBERS = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def registry(folder: Path) -> ModelRegistry:
    return ModelRegistry(sqlite_uri(str(folder)))


@pytest.fixture
def name(registry: ModelRegistry, folder: Path) -> str:
    """A registered model of three versions: the champion, the candidate, and one with another label."""
    model = f"model-{next(_NUMBERS)}"
    for version in (1, 2, 3):
        register(registry.tracking_uri, model, folder / model / str(version))
    settings = folder / model / "3" / "onnx" / "labels.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "labels": ["good", "neutral"]}))
    registry.set_alias(model, "champion", 1)
    registry.set_alias(model, "candidate", 2)
    return model


def plan(registry: ModelRegistry, name: str, **changes: Any) -> CanarySettings:
    recipe = Recipe.model_validate({"name": name, "data": {"source": "-"}, "model": {"base": "-"}})
    options: dict[str, Any] = {"mode": "canary", "percent": 10, "candidate": "candidate"}
    options |= {"min_requests": 200, "min_agreement": 0.8, **changes}
    return plan_canary(recipe, tracking_uri=registry.tracking_uri, storage="/s", **options)


def test_a_candidate_is_found_by_its_alias_or_its_number(registry: ModelRegistry, name: str) -> None:
    by_alias, by_number = plan(registry, name), plan(registry, name, candidate="2")

    assert (by_alias.version, by_alias.alias) == (2, "candidate")
    assert (by_number.version, by_number.alias) == (2, None)
    assert by_alias.started_at < by_number.started_at


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidate": "1"}, "version 1 of .* is what the alias 'champion' points to already"),
        ({"candidate": "champion"}, "that alias is the champion's"),
        ({"candidate": "3"}, "version 3 of .* has the labels good, neutral and the champion, version 1, bad, good"),
        ({"percent": 51}, "--canary 51: give a share from 1 to 50 percent"),
    ],
)
def test_a_candidate_that_cannot_be_compared_is_refused(
    changes: dict[str, Any], said: str, registry: ModelRegistry, name: str
) -> None:
    with pytest.raises(InputError, match=said):
        plan(registry, name, **changes)


def test_what_is_not_registered_says_how_to_register_it(registry: ModelRegistry, name: str) -> None:
    with pytest.raises(RegistryError, match=r"carries the alias 'rival' .*promote RECIPE --as-candidate.*--candidate"):
        plan(registry, name, candidate="rival")
    with pytest.raises(RegistryError, match="has no version 9"):
        plan(registry, name, candidate="9")


def ended(settings: CanarySettings, state: CanaryState) -> CanaryHealth:
    side = Side(9, 0, [0.01] * 9)
    versions = [
        VersionHealth(version=number, requests=9, error_rate=side.error_rate, latency_p50_s=0.01, latency_p95_s=0.01)
        for number in (1, 2)
    ]
    return CanaryHealth(
        mode=settings.mode,
        percent=10,
        state=state,
        reason="it ended",
        compared=9,
        min_requests=9,
        agreement=1.0,
        min_agreement=0.8,
        champion=versions[0],
        candidate=versions[1],
        started_at=settings.started_at,
        problem=None,
    )


def specification(registry: ModelRegistry, name: str, mode: Mode) -> EndpointSpec:
    settings = replace(plan(registry, name), mode=mode)
    return replace(SPEC, model=name, tracking_uri=registry.tracking_uri, canary=settings)


def aliases(registry: ModelRegistry, name: str) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for alias in ("champion", "candidate"):
        try:
            found[alias] = registry.by_alias(name, alias).version
        except RegistryError:
            found[alias] = None
    return found


@pytest.mark.parametrize(
    ("mode", "state", "left"),
    [
        ("canary", "finished", {"champion": 2, "candidate": None}),
        ("canary", "rolled back", {"champion": 1, "candidate": None}),
        ("shadow", "finished", {"champion": 1, "candidate": 2}),
        ("shadow", "rolled back", {"champion": 1, "candidate": 2}),
    ],
)
def test_the_end_moves_the_aliases_and_is_kept_with_the_candidate(
    mode: Mode, state: CanaryState, left: dict[str, int | None], registry: ModelRegistry, name: str
) -> None:
    spec = specification(registry, name, mode)
    assert spec.canary is not None
    assert outcome_of(registry.by_version(name, 2), "news", spec.canary) is None
    outcome = ended(spec.canary, state)

    for _ in range(2):  # a gateway that died in between does it again
        conclude(registry, "news", spec, outcome)

    candidate = registry.by_version(name, 2)
    assert aliases(registry, name) == left
    assert outcome_of(candidate, "news", spec.canary) == outcome
    assert outcome_of(candidate, "another", spec.canary) is None
    assert outcome_of(candidate, "news", replace(spec.canary, started_at="later")) is None
    if left["champion"] == 2:
        assert registry.rollback(name, "champion") == (2, 1)


def test_a_candidate_that_passed_replaces_no_other_champion_than_the_one_beside_it(
    registry: ModelRegistry, name: str
) -> None:
    spec = specification(registry, name, "canary")
    assert spec.canary is not None
    registry.set_alias(name, "champion", 3)

    assert not conclude(registry, "news", spec, ended(spec.canary, "finished"))

    assert aliases(registry, name) == {"champion": 3, "candidate": 2}
    assert outcome_of(registry.by_version(name, 2), "news", spec.canary) is None


def test_the_alias_of_a_newer_candidate_stays(registry: ModelRegistry, name: str) -> None:
    spec = specification(registry, name, "canary")
    assert spec.canary is not None
    registry.set_alias(name, "candidate", 3)

    conclude(registry, "news", spec, ended(spec.canary, "rolled back"))

    assert aliases(registry, name) == {"champion": 1, "candidate": 3}
