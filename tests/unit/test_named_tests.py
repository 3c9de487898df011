"""The documents that name tests name tests that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMED = sorted(
    {
        (page.name, *found)
        for page in (ROOT.parent / "docs").glob("*.md")
        for found in re.findall(r"`(test_\w+\.py)::(test_\w+)`", page.read_text("utf-8"))
    }
)


def test_faults_and_workflows_are_among_them() -> None:
    assert {"reliability.md", "workflows.md"} <= {page for page, _, _ in NAMED}


@pytest.mark.parametrize(("page", "file", "test"), NAMED)
def test_each_is_a_test(page: str, file: str, test: str) -> None:
    assert any(f"def {test}(" in path.read_text("utf-8") for path in ROOT.rglob(file))
