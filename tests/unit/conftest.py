"""Unit tests run without Ray: starting it is an error."""

from typing import Never

import pytest
import ray


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> Never:
        raise AssertionError("a unit test started Ray; move it to tests/integration")

    monkeypatch.setattr(ray, "init", refuse)
