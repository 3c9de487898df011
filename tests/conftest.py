"""For all tests: hypothesis measures no time, since a busy machine must not fail a test; unit tests come first."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

UNIT = Path(__file__).parent / "unit"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes milliseconds fails first, and before the integration tests connect this process to a cluster."""
    items.sort(key=lambda item: UNIT not in item.path.parents)
