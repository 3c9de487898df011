"""The shared pool: replicas that hold the models of many endpoints, as one Serve application."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from serve.endpoints import Deployment, EndpointSpec

POOL = "_pool"
"""Name of the pool's Serve application; no recipe can have it."""

TARGET_ONGOING_BATCHES = 2.0
"""Batches in flight per replica that the autoscaler aims for: one in the forward pass and the next one."""


@dataclass(frozen=True)
class PoolSpec:
    """What bounds the pool; Serve keeps it as the deployment's `user_config`."""

    max_replicas: int = 2
    memory_gb: float = 2.0
    """Of loaded models in each replica, by the size of their files."""
    downscale_to_zero_delay_s: float = 300.0
    code_uri: str | None = None

    def as_user_config(self) -> dict[str, Any]:
        """A JSON object that `from_user_config` reads."""
        return asdict(self)

    @classmethod
    def from_user_config(cls, user_config: Mapping[str, Any]) -> Self:
        """What `as_user_config` wrote."""
        return cls(**user_config)


@dataclass(frozen=True)
class Pool:
    """The pool as Serve has it."""

    spec: PoolSpec
    num_running: int
    """Replicas that answer."""
    num_starting: int
    """Replicas on their way."""

    def deployment(self, spec: EndpointSpec) -> Deployment:
        """An endpoint that the pool answers for: its batches are cut for the pool's replicas."""
        shared = replace(spec, max_replicas=self.spec.max_replicas, target_ongoing_requests=TARGET_ONGOING_BATCHES)
        return Deployment(shared, self.num_running, self.num_starting)
