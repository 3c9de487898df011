"""When a sweep makes room for another job."""

from typing import Any

import pytest

from common.placement_groups import CREATED, INFEASIBLE, PENDING
from tune import neighbours
from tune.neighbours import GIVES_UP_AFTER_S, PATIENCE_S, Neighbours

OURS, OTHER, THIRD = b"\x01", b"\x02", b"\x03"


class Cluster:
    """Placement groups and a clock that the tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "job_id", OURS.hex)
        self.now = 100.0
        self.groups: list[Any] = []
        self.neighbours = Neighbours(lambda: self.groups, lambda: self.now)

    def holds(self, job: bytes, *, state: int, why: int = 0, resources: dict[str, float] | None = None) -> None:
        group = neighbours_group()
        group.placement_group_id = bytes([len(self.groups)])
        group.creator_job_id = job
        group.state = state
        group.stats.scheduling_state = why
        bundle = group.bundles.add()
        for name, amount in (resources or {"CPU": 1.0}).items():
            bundle.unit_resources[name] = amount
        self.groups.append(group)

    def makes_room(self, *, num_processes: int, after_s: float = 0.0) -> bool:
        self.now += after_s
        return self.neighbours.make_room(num_processes)


def neighbours_group() -> Any:
    from ray.core.generated import gcs_pb2

    return gcs_pb2.PlacementGroupTableData()  # type: ignore[attr-defined]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_room_is_made_for_a_job_that_has_waited_with_nothing_until_it_has_something(cluster: Cluster) -> None:
    cluster.holds(OURS, state=CREATED)
    cluster.holds(OTHER, state=PENDING)
    assert not cluster.makes_room(num_processes=1)
    assert not cluster.makes_room(num_processes=1, after_s=PATIENCE_S - 1.5)
    assert cluster.makes_room(num_processes=1, after_s=1.5)
    assert cluster.makes_room(num_processes=0, after_s=2.0)
    cluster.groups[-1].state = CREATED
    assert not cluster.makes_room(num_processes=0, after_s=2.0)


def never(cluster: Cluster) -> bool:
    return not any(cluster.makes_room(num_processes=1, after_s=PATIENCE_S) for _ in range(5))


def test_none_is_made_for_a_job_that_holds_something_and_wants_more(cluster: Cluster) -> None:
    cluster.holds(OTHER, state=CREATED, resources={"GPU": 1.0})
    cluster.holds(OTHER, state=PENDING)
    assert never(cluster)


def test_what_holds_no_processor_is_no_share_of_the_cluster(cluster: Cluster) -> None:
    cluster.holds(OTHER, state=CREATED, resources={"memory": 1.0})
    cluster.holds(OTHER, state=PENDING)
    assert not never(cluster)


def test_none_is_made_for_ones_own_and_for_what_no_node_could_hold(cluster: Cluster) -> None:
    cluster.holds(OURS, state=PENDING)
    cluster.holds(OTHER, state=PENDING, why=INFEASIBLE, resources={"GPU": 8.0})
    assert never(cluster)


def test_of_two_that_wait_for_a_third_none_waits_for_the_other(cluster: Cluster) -> None:
    cluster.holds(THIRD, state=CREATED)
    cluster.holds(OTHER, state=PENDING)
    cluster.holds(OURS, state=PENDING)
    assert not any(cluster.makes_room(num_processes=0, after_s=PATIENCE_S) for _ in range(5))


def test_a_job_that_does_not_take_what_is_free_is_waited_for_no_longer(cluster: Cluster) -> None:
    cluster.holds(OTHER, state=PENDING)
    cluster.makes_room(num_processes=1)
    assert cluster.makes_room(num_processes=1, after_s=PATIENCE_S)
    assert cluster.makes_room(num_processes=0, after_s=1.0)
    assert cluster.makes_room(num_processes=0, after_s=GIVES_UP_AFTER_S - 1.0)
    assert not cluster.makes_room(num_processes=0, after_s=1.0)
    assert never(cluster)
