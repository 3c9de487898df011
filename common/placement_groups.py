"""Placement groups that an actor made and did not remove: Ray keeps them, and what they hold, until the driver ends."""

import time
from typing import Any

import ray
import ray.util
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup

LOOK_INTERVAL_S = 0.1

_Table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made when it is imported


def remove_orphans(wait_s: float = 0.0) -> None:
    """Removes the placement groups of this driver's actors that are dead.

    Args:
        wait_s: How long to wait for the makers of others to die, where they have been ended just now.
    """
    deadline = time.monotonic() + wait_s
    while True:
        made_by_actors = [group for group in _of_this_driver() if not ActorID(group.creator_actor_id).is_nil()]
        orphans = [group for group in made_by_actors if group.creator_actor_dead]
        for group in orphans:
            ray.util.remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
        if len(orphans) == len(made_by_actors) or time.monotonic() > deadline:
            return
        time.sleep(LOOK_INTERVAL_S)


def _of_this_driver() -> list[Any]:
    """Those that are not removed; Ray's public table does not say who made them."""
    job_id = ray.get_runtime_context().get_job_id()
    table = state._connect_and_get_accessor().get_placement_group_table()
    groups = [_Table.FromString(entry) for entry in table]
    return [group for group in groups if group.state != _Table.REMOVED and group.creator_job_id.hex() == job_id]
