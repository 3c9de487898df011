"""Ray's placement groups, with what its public table does not tell: whose they are, and why they wait.

Those that an actor made and did not remove Ray keeps, and what they hold, until the driver ends: `remove_orphans`.
"""

import time
from typing import Any, Final

import ray
import ray.util
from ray._private.state import state
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup

LOOK_INTERVAL_S = 0.1

_Table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # made when it is imported
_Stats: Any = gcs_pb2.PlacementGroupStats  # type: ignore[attr-defined]

PENDING: Final[int] = _Table.PENDING
CREATED: Final[int] = _Table.CREATED
INFEASIBLE: Final[int] = _Stats.INFEASIBLE
"""Of `stats.scheduling_state`: no node that there is could ever hold it."""


def placement_groups() -> list[Any]:
    """The cluster's, but for those that are removed, as Ray's control store has them (`PlacementGroupTableData`)."""
    table = state._connect_and_get_accessor().get_placement_group_table()
    groups = [_Table.FromString(entry) for entry in table]
    return [group for group in groups if group.state != _Table.REMOVED]


def job_id() -> str:
    """This driver's."""
    return str(ray.get_runtime_context().get_job_id())


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
    return [group for group in placement_groups() if group.creator_job_id.hex() == job_id()]
