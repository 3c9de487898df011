"""How a canary ended, on record in the registry: a tag of the candidate's version, and the aliases.

The tag is written last. A gateway that dies before it finds the canary undecided, or the candidate the champion
already; it then ends the canary again, which changes nothing twice.
"""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from serve.canary_settings import CanarySettings
from serve.health import CanaryHealth

if TYPE_CHECKING:
    from common.registry import ModelRegistry, ModelVersion
    from serve.endpoints import EndpointSpec


def outcome_of(version: "ModelVersion", endpoint: str, settings: CanarySettings) -> CanaryHealth | None:
    """How this canary of `endpoint` ended; None when the candidate's version does not say."""
    try:
        found = CanaryHealth.model_validate_json(version.tags.get(_tag(endpoint), ""))
    except ValidationError:
        return None
    return found if found.started_at == settings.started_at else None


def conclude(registry: "ModelRegistry", endpoint: str, spec: "EndpointSpec", outcome: CanaryHealth) -> bool:
    """Moves the endpoint's alias to a candidate that passed as a canary, takes the candidate's alias away, and says so.

    A shadow changes no alias. Returns False, and changes nothing, when the alias points elsewhere by now than to the
    champion that the candidate was compared with. Raises `RegistryError` and `TrackingError`.
    """
    assert spec.canary is not None
    settings = spec.canary
    if settings.mode == "canary":
        compared_with = (spec.alias, outcome.champion.version)
        if outcome.state == "finished" and not registry.set_alias(
            spec.model, spec.alias, settings.version, only_while=compared_with
        ):
            return False
        if settings.alias is not None:
            registry.drop_alias(spec.model, settings.alias, settings.version)
    registry.set_tags(spec.model, settings.version, {_tag(endpoint): outcome.model_dump_json()})
    return True


def _tag(endpoint: str) -> str:
    return f"tuneserve.canary.{endpoint}"
