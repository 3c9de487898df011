"""The notebook, run as a kernel runs it: cell after cell in one namespace, on a thread with a running event loop."""

import asyncio
from typing import Any

import pytest

from common.cluster import Connection, read_record
from tests.notebook import source


async def in_a_kernel(program: str) -> dict[str, Any]:
    """What the program leaves. In a kernel, as here, `asyncio.run` in a cell would be refused."""
    names: dict[str, Any] = {}
    exec(compile(program, "notebook.ipynb", "exec"), names)
    return names


def test_the_notebook_runs_from_the_recipe_to_an_answer(
    cluster: Connection, gateway: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_record()
    assert record is not None
    monkeypatch.setenv("TUNESERVE_STORAGE", record.storage)

    left = asyncio.run(in_a_kernel(source()))

    assert [row["trial"] for row in left["leaderboard"](left["swept"])] == [
        trial["number"] for trial in left["swept"]["trials"]
    ]
    assert len(left["swept"]["trials"]) == 2
    assert left["promoted"]["promoted"]
    assert left["deployed"]["version"] == left["promoted"]["version"]
    assert [answer.label for answer in left["answers"]] == ["bullish", "bearish", "neutral"]
    assert "notebook" in {endpoint["name"] for endpoint in left["status"]()["endpoints"]}
