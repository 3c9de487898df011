"""What a canary was started with; it stands in the endpoint's specification, so it outlives the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from common.errors import InputError

Mode = Literal["canary", "shadow"]
"""`canary`: the candidate answers its share; `shadow`: it is asked too, and the champion answers."""

MAX_PERCENT: dict[Mode, int] = {"canary": 50, "shadow": 100}
"""A candidate that may fail answers no more than half; one that answers nobody may see everything."""

DEFAULT_MIN_REQUESTS = 200
DEFAULT_MIN_AGREEMENT = 0.8


@dataclass(frozen=True)
class CanarySettings:
    """A candidate beside the champion."""

    mode: Mode
    percent: int
    """Share of the requests that the candidate is asked."""
    version: int
    """The candidate."""
    alias: str | None
    """The alias that named it, which goes when the canary ends; None when it was named by its number."""
    min_requests: int
    """Requests that both must have answered before the candidate can pass."""
    min_agreement: float
    """The share of texts whose label must be the champion's."""
    started_at: str
    """When it was deployed (ISO 8601, UTC), which also tells it from another canary of the same version."""

    def check(self) -> None:
        """Raises `InputError` for a share, number or bound that no canary can have."""
        most = MAX_PERCENT[self.mode]
        if not 1 <= self.percent <= most:
            raise InputError(f"--{self.mode} {self.percent}: give a share from 1 to {most} percent")
        if self.min_requests < 1:
            raise InputError(f"--min-requests {self.min_requests}: compare at least 1 request")
        if not 0.0 <= self.min_agreement <= 1.0:
            raise InputError(f"--min-agreement {self.min_agreement:g}: give a share of the texts from 0 to 1")

    def is_like(self, other: "CanarySettings | None") -> bool:
        """Whether it asks for the same as `other`, whenever that was started."""
        return other is not None and {**vars(self), "started_at": ""} == {**vars(other), "started_at": ""}

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> Self | None:
        """The settings in a JSON object; None for null. Raises `TypeError` when it is not such an object."""
        return None if found is None else cls(**found)
