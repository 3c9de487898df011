"""Placement groups whose makers are dead go; all others stay."""

import pytest
import ray
import ray.util
from ray.util.placement_group import PlacementGroup, placement_group

from common.placement_groups import remove_orphans

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(num_cpus=0)
class Maker:
    """Makes a placement group."""

    def make(self) -> PlacementGroup:
        made = placement_group([{"CPU": 1}])
        made.wait()
        return made


def state(group: PlacementGroup) -> str:
    return str(ray.util.placement_group_table(group)["state"])


def test_only_what_dead_actors_made_is_removed() -> None:
    own = placement_group([{"CPU": 1}])
    living, dead = Maker.remote(), Maker.remote()
    stays, goes = ray.get([living.make.remote(), dead.make.remote()])
    try:
        remove_orphans()
        assert state(goes) == "CREATED"
        ray.kill(dead)
        remove_orphans(wait_s=5.0)
        assert (state(goes), state(stays), state(own)) == ("REMOVED", "CREATED", "CREATED")
    finally:
        for group in (own, stays):
            ray.util.remove_placement_group(group)
