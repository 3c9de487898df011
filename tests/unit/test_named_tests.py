"""The document on faults names tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT.parent / "docs" / "reliability.md").read_text())


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_each_row_is_a_test(file: str, test: str) -> None:
    assert any(f"def {test}(" in path.read_text() for path in ROOT.rglob(file))
