"""LoRA from a search to a registered version."""

from pathlib import Path

import mlflow
import pytest
from transformers import AutoModelForSequenceClassification

from common.registry import ModelRegistry
from scripts.steps import promote, sweep
from tests.small_job import small_job

pytestmark = pytest.mark.usefixtures("cluster")


def test_the_rank_is_searched_and_the_winner_is_registered_as_a_plain_model(tmp_path: Path) -> None:
    job = small_job(
        tmp_path, "model.lora={alpha: 32}", "search.space.lora.r.choice=[4, 8]", "search.num_trials=2", "train.epochs=1"
    )
    result = sweep(job)
    best = result["best"]
    assert best["params"]["lora.r"] in (4, 8)
    stored = {path.name for path in Path(best["checkpoint"]).iterdir()}
    assert "adapter_model.safetensors" in stored
    assert "model.safetensors" not in stored
    run = mlflow.MlflowClient(job.tracking_uri).get_run(best["run_id"])
    assert run.data.params["lora.r"] == str(best["params"]["lora.r"])

    promoted = promote(job)
    registry = ModelRegistry(job.tracking_uri)
    version = registry.by_version(promoted["model"], promoted["version"])
    folder = Path(version.uri.removeprefix("file://"))
    assert not list(folder.rglob("adapter_*"))
    (weights,) = folder.rglob("model.safetensors")
    model = AutoModelForSequenceClassification.from_pretrained(weights.parent)
    assert set(model.config.id2label.values()) == {"bearish", "bullish", "neutral"}
