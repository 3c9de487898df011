from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest

import serve.autoscaling
from serve.autoscaling import IDLE_METRIC, IdlePolicy

NOW = 1000.0


@dataclass
class Context:
    """The part of Serve's AutoscalingContext that the policy reads."""

    total_num_requests: float = 0.0
    running_replicas: tuple[str, ...] = ("r1",)
    target_num_replicas: int = 1
    idle_s: dict[str, float] = field(default_factory=dict)
    current_time: float = NOW
    config: Any = field(default_factory=lambda: SimpleNamespace(target_ongoing_requests=2.0))

    @property
    def current_num_replicas(self) -> int:
        return len(self.running_replicas)

    @property
    def raw_metrics(self) -> dict[str, dict[str, list[Any]]]:
        reported_at = NOW - 1
        reports = {
            replica: [SimpleNamespace(timestamp=reported_at, value=idle)] for replica, idle in self.idle_s.items()
        }
        return {IDLE_METRIC: reports}


def wanted(**context: Any) -> float:
    return IdlePolicy(downscale_to_zero_delay_s=10)(Context(**context))[0]


def test_batches_in_flight_decide_while_there_are_any() -> None:
    assert wanted(total_num_requests=6, idle_s={"r1": 100}) == 3


def test_the_last_replica_stays_until_it_has_been_idle_for_the_delay() -> None:
    assert wanted(idle_s={"r1": 8.9}) == 1
    assert wanted(idle_s={"r1": 9.0}) == 0  # and one second since it said so


def test_short_requests_that_no_sample_saw_keep_the_replica() -> None:
    assert wanted(total_num_requests=0, idle_s={"r1": 0.5}) == 1


def test_the_replica_that_worked_last_counts() -> None:
    assert wanted(running_replicas=("r1", "r2"), idle_s={"r1": 100, "r2": 3}) == 1


def test_a_replica_that_has_not_reported_yet_is_not_idle() -> None:
    assert wanted(running_replicas=("r1", "r2"), idle_s={"r1": 100}) == 1
    assert wanted(idle_s={}) == 1


@pytest.mark.parametrize("target", [0, 1])
def test_without_replicas_serve_decides(target: int) -> None:
    assert wanted(running_replicas=(), target_num_replicas=target) == target


def test_the_policy_travels_by_value_to_a_controller_without_tuneserve() -> None:
    cloudpickle.register_pickle_by_value(serve.autoscaling)
    try:
        pickled = cloudpickle.dumps(IdlePolicy)
    finally:
        cloudpickle.unregister_pickle_by_value(serve.autoscaling)

    assert cloudpickle.loads(pickled)(downscale_to_zero_delay_s=10)(Context(idle_s={"r1": 100}))[0] == 0
