"""LoRA from a search to a registered version."""

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from transformers import AutoModelForSequenceClassification

from common.adapter import base_of
from common.classifier import Classifier
from common.recipe import Registry, Serve
from common.registry import ModelRegistry
from scripts.steps import promote, sweep
from tests.small_job import small_job

pytestmark = pytest.mark.usefixtures("cluster")


def test_the_rank_is_searched_and_the_winner_is_registered_as_a_plain_model_and_for_the_pool_in_two_parts(
    tmp_path: Path,
) -> None:
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

    of_the_pool = {"serve": Serve(pool="shared"), "registry": Registry(model="pooled")}
    pooled = promote(replace(job, recipe=job.recipe.model_copy(update=of_the_pool)))
    onnx = Path(registry.by_version("pooled", pooled["version"]).uri.removeprefix("file://")) / "onnx"
    assert base_of(onnx) is not None
    texts = ["Kestrel Retail raises full-year guidance", "Galdor Motors names new chief financial officer"]
    merged = Classifier.load(folder / "onnx").logits(texts)
    assert Classifier.load(onnx).logits(texts) == pytest.approx(
        merged, abs=0.2
    )  # one quantised with the adapters in it
