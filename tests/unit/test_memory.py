"""Between trainings, what the last one left goes and the libraries are looked through no more."""

import gc
import weakref

import pytest

from tune import memory
from tune.memory import free_memory


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.own = self


def test_cycles_go_and_libraries_are_set_aside_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(memory, "_libraries_are_set_aside", False)
    for _ in range(2):
        gone = weakref.ref(Cycle())
        free_memory()
        assert gone() is None
    assert frozen == [True]
