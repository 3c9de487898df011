"""What the gateway tells of itself and its endpoints; asking wakes nothing."""

from typing import Literal

from pydantic import BaseModel, Field

from common.recipe import PoolKind

State = Literal["asleep", "waking", "awake"]
"""`asleep`: no replica; `waking`: one is on its way; `awake`: at least one answers."""


class EndpointHealth(BaseModel):
    """How an endpoint is; asking wakes nothing."""

    name: str
    state: State
    replicas: int = Field(description="Replicas that answer.")
    model: str = Field(description="The registered model.")
    version: int | None = Field(description="The version that answers; null until the registry has been reached.")
    problem: str | None = Field(None, description="Why the registry could not be asked just now.")
    pool: PoolKind = Field("own", description="Whose replicas these are: its own, or the shared pool's.")


class GatewayHealth(BaseModel):
    """The gateway and its endpoints."""

    status: Literal["ok"] = "ok"
    endpoints: list[EndpointHealth]
