"""When a sweep's time is over."""

import time
from typing import Any

from ray.tune.stopper import Stopper


class TimeBudget(Stopper):
    """Ends a sweep so many seconds after its first step, by a clock that does not jump: Tune's own asks the wall clock,
    which is set now and then, and would end the sweep at once or never."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._began_at: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Ends no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether the time is over; the first call begins it."""
        now = time.monotonic()
        if self._began_at is None:
            self._began_at = now
        return now - self._began_at >= self._budget_s
