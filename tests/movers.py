"""What a process does that promotes to one name while others do."""

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from common.recipe import Recipe
from common.registry import ModelVersion
from common.tokenised import PreparedData
from common.tracking import Tracker
from tests.tiny_model import build_engine
from tune import promote

RECIPE = Recipe.model_validate({"name": "shared", "data": {"source": "x.csv"}, "model": {"base": "b"}})


def add_version(uri: str, folder: Path, run_id: str | None = None) -> int:
    """Registers a next version of the model, with its files among the artifacts of a run, as a server wants it."""
    tracker = Tracker.open(uri, "shared")
    run_id = run_id or tracker.start("by-hand")
    tracker.client.log_artifacts(run_id, str(build_engine(folder / "onnx")), "onnx")
    source = tracker.client.get_run(run_id).info.artifact_uri
    return int(tracker.client.create_model_version(RECIPE.name, source, run_id).version)


def promote_together(uri: str, folder: Path, together: Barrier) -> None:
    """A promotion whose candidate passes; its first gate is over when all others' are, and none has moved the alias."""
    tracker = Tracker.open(uri, "shared")
    run_id = tracker.start("trial")
    gates: list[int | None] = []

    def decide(
        _: object, checkpoint: str, recipe_yaml: str, champion: ModelVersion | None, registered: ModelVersion | None
    ) -> promote.Promotion:
        version = registered.version if registered else add_version(uri, folder, run_id)
        gates.append(champion and champion.version)
        if len(gates) == 1:
            together.wait()
        gate: dict[str, Any] = {"champion": gates[-1]}
        return promote.Promotion(RECIPE.name, version, True, {}, gate)

    prepared = PreparedData("", "", "data", "test", (), {}, 8, 0, "b", "x.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(promote._Attempt, "decide", decide)
        promote.promote(RECIPE, prepared, "checkpoint", tracker, run_id, "", str(folder / "storage"), "champion")
