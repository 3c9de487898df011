"""What models in one process have in common, held once and only as long as one of them is."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

Part = TypeVar("Part")


class SharedParts(Generic[Part]):
    """Parts by a key that says what is in them. It may be used from several threads."""

    def __init__(self) -> None:
        self._held: WeakValueDictionary[Hashable, Part] = WeakValueDictionary()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Part]) -> Part:
        """The part of that key; made when nobody holds it, one after another."""
        with self._lock:
            part = self._held.get(key)
            if part is None:
                part = self._held[key] = make()
            return part
