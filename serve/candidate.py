"""Choosing the candidate of a canary: everything that can be wrong with it is said before anything is deployed."""

from datetime import UTC, datetime

from common.errors import InputError, RegistryError
from common.model_settings import ModelSettings
from common.recipe import Recipe
from common.registry import ModelRegistry, ModelVersion
from serve.canary_settings import CanarySettings, Mode


def plan_canary(
    recipe: Recipe,
    *,
    tracking_uri: str,
    storage: str,
    mode: Mode,
    percent: int,
    candidate: str,
    min_requests: int,
    min_agreement: float,
) -> CanarySettings:
    """A canary or shadow of `candidate`, a version's number or an alias, beside the recipe's champion.

    Raises `RegistryError` when either is not registered, and `InputError` when the candidate is the champion, has other
    labels, or the settings are out of range.
    """
    registry = ModelRegistry(tracking_uri)
    champion = registry.by_alias(recipe.registered_model, recipe.registry.alias)
    version, alias = _find(registry, recipe, candidate)
    settings = CanarySettings(
        mode=mode,
        percent=percent,
        version=version.version,
        alias=alias,
        min_requests=min_requests,
        min_agreement=min_agreement,
        started_at=datetime.now(UTC).isoformat(),
    )
    settings.check()
    if version.version == champion.version:
        raise InputError(
            f"--candidate {candidate}: version {version.version} of {champion.name!r} is what the alias "
            f"{recipe.registry.alias!r} points to already; name another version"
        )
    theirs, ours = (_labels(registry, found, storage) for found in (champion, version))
    if set(ours) != set(theirs):
        raise InputError(
            f"version {version.version} of {champion.name!r} has the labels {', '.join(ours)} and the champion, "
            f"version {champion.version}, {', '.join(theirs)}: clients would meet both; move the alias with "
            "`tuneserve promote` instead"
        )
    return settings


def _find(registry: ModelRegistry, recipe: Recipe, candidate: str) -> tuple[ModelVersion, str | None]:
    """The version, and the alias that led to it."""
    name = recipe.registered_model
    if candidate.isdecimal():
        return registry.by_version(name, int(candidate)), None
    if candidate == recipe.registry.alias:
        raise InputError(f"--candidate {candidate}: that alias is the champion's; name a version or another alias")
    try:
        return registry.by_alias(name, candidate), candidate
    except RegistryError as error:
        raise RegistryError(
            f"no version of {name!r} carries the alias {candidate!r} in {registry.tracking_uri}; run `tuneserve "
            "promote RECIPE --as-candidate`, or name a version: --candidate NUMBER"
        ) from error


def _labels(registry: ModelRegistry, version: ModelVersion, storage: str) -> tuple[str, ...]:
    try:
        return ModelSettings.read(registry.fetchable_uri(version, storage)).labels
    except OSError as error:
        raise RegistryError(
            f"version {version.version} of {version.name!r} cannot be read ({error}); check that its artifact store is "
            "reachable"
        ) from error
