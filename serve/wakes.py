"""When an endpoint woke, and how long that took: from the first batch without a replica to its answer."""

import time
from collections.abc import Callable


class Wakes:
    """Follows endpoints from sleep to their first answer.

    What Serve says of replicas is up to a second old. So an endpoint that has just answered is not taken for asleep
    before a replica of it was seen: one wake would count twice.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asleep: set[str] = set()
        self._began_at: dict[str, float] = {}
        self._unseen: set[str] = set()

    def seen(self, name: str, num_running: int) -> None:
        """Takes over how many replicas answer."""
        if num_running:
            self._asleep.discard(name)
            self._unseen.discard(name)
        elif name not in self._began_at and name not in self._unseen:
            self._asleep.add(name)

    def sent(self, name: str) -> None:
        """A batch goes out; it begins a wake when the endpoint is asleep."""
        if name in self._asleep:
            self._asleep.remove(name)
            self._began_at[name] = self._clock()

    def answered(self, name: str) -> float | None:
        """A batch was answered. Returns the seconds that the wake took, if it ends one."""
        began_at = self._began_at.pop(name, None)
        if began_at is None:
            return None
        self._unseen.add(name)
        return self._clock() - began_at

    def failed(self, name: str) -> float | None:
        """A batch failed. Returns the seconds that went into the wake, if it ends one."""
        began_at = self._began_at.pop(name, None)
        return None if began_at is None else self._clock() - began_at
