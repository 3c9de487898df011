"""Other jobs that wait for room on a full cluster: a sweep gives way to those that have nothing yet.

Ray hands out what is free in no order that one could rely on, and a sweep keeps its processes from trial to trial: a
job that comes to a full cluster would wait for the end of a sweep, hours perhaps.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from common.placement_groups import CREATED, INFEASIBLE, PENDING, job_id, placement_groups

PATIENCE_S = 10.0
"""How long another job waits before room is made for it. A process takes two or three seconds to start anew: two sweeps
on a cluster that holds one trial, which take turns, lose no more than that in each."""

LOOK_INTERVAL_S = 1.0

GIVES_UP_AFTER_S = 60.0
"""How long a sweep that runs nothing any more leaves free what another job does not take: it may fit nowhere."""


class Neighbours:
    """The jobs beside this one, as Ray's placement groups tell of them."""

    def __init__(
        self, groups: Callable[[], Iterable[Any]] = placement_groups, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._groups = groups
        self._clock = clock
        self._looked_at = float("-inf")
        self._seen_since: dict[bytes, float] = {}
        self._given_up: set[bytes] = set()
        self._makes_room = False
        self._idle_since: float | None = None

    def make_room(self, num_processes: int) -> bool:
        """Whether this job, which has so many processes, is to start none and to give up each that gets free.

        It is while another job that holds nothing has waited `PATIENCE_S`, and begins only while it has a process to
        give: of two that wait, none waits for the other.
        """
        now = self._clock()
        if now - self._looked_at >= LOOK_INTERVAL_S:
            self._looked_at = now
            self._look(now, num_processes)
        return self._makes_room

    def _look(self, now: float, num_processes: int) -> None:
        waiting = _waiting_for_their_first(self._groups()) - self._given_up
        self._seen_since = {group: self._seen_since.get(group, now) for group in waiting}
        starving = {group for group, since in self._seen_since.items() if now - since >= PATIENCE_S}
        self._makes_room = bool(starving) and (self._makes_room or num_processes > 0)
        if not self._makes_room or num_processes > 0:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= GIVES_UP_AFTER_S:
            self._given_up |= starving
            self._makes_room = False


def _waiting_for_their_first(groups: Iterable[Any]) -> set[bytes]:
    """The placement groups that wait for room in other jobs that hold no CPU and no GPU."""
    of_others = [group for group in groups if group.creator_job_id.hex() != job_id() and _holds_processors(group)]
    provided = {group.creator_job_id for group in of_others if group.state == CREATED}
    return {
        group.placement_group_id
        for group in of_others
        if group.state == PENDING
        and group.stats.scheduling_state != INFEASIBLE
        and group.creator_job_id not in provided
    }


def _holds_processors(group: Any) -> bool:
    return any(bundle.unit_resources.get(name, 0.0) > 0 for bundle in group.bundles for name in ("CPU", "GPU"))
