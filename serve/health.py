"""What the gateway tells of itself and its endpoints; asking wakes nothing."""

from typing import Literal

from pydantic import BaseModel, Field

from common.recipe import PoolKind

State = Literal["asleep", "waking", "awake"]
"""`asleep`: no replica; `waking`: one is on its way; `awake`: at least one answers."""


CanaryState = Literal["running", "finished", "rolled back"]
"""`finished`: the candidate passed, and after a canary is the champion; `rolled back`: it broke a bound."""


class VersionHealth(BaseModel):
    """One of the versions that are compared."""

    version: int | None
    requests: int = Field(description="Requests that it was asked.")
    error_rate: float | None = Field(description="The share of them that it failed; null before the first.")
    latency_p50_s: float | None = Field(description="Wakes left out; null before the first answer.")
    latency_p95_s: float | None


class CanaryHealth(BaseModel):
    """A candidate beside the champion: how it does, and how it ended."""

    mode: Literal["canary", "shadow"] = Field(description="Whether the candidate answers its share, or nobody.")
    percent: int = Field(description="The share of requests that the candidate is asked.")
    state: CanaryState
    reason: str | None = Field(None, description="Why it ended; null while it runs.")
    compared: int = Field(description="Requests that both versions answered.")
    min_requests: int = Field(description="How many of those the candidate needs to pass.")
    agreement: float | None = Field(description="The share of texts that both gave the same label.")
    min_agreement: float
    champion: VersionHealth
    candidate: VersionHealth
    started_at: str
    problem: str | None = Field(None, description="Why the candidate or the registry could not be reached just now.")


class EndpointHealth(BaseModel):
    """How an endpoint is; asking wakes nothing."""

    name: str
    state: State
    replicas: int = Field(description="Replicas that answer.")
    model: str = Field(description="The registered model.")
    version: int | None = Field(description="The version that answers; null until the registry has been reached.")
    problem: str | None = Field(None, description="Why the registry could not be asked just now.")
    pool: PoolKind = Field("own", description="Whose replicas these are: its own, or the shared pool's.")
    canary: CanaryHealth | None = Field(None, description="The candidate beside the champion, if there is or was one.")


class GatewayHealth(BaseModel):
    """The gateway and its endpoints."""

    status: Literal["ok"] = "ok"
    endpoints: list[EndpointHealth]
