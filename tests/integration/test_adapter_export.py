"""Real exports of adapters and their base model in two parts, which take seconds each; no Ray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.adapter import base_of
from common.base_model import load_tokenizer
from common.classifier import Classifier
from common.recipe import Lora
from tests.small_bases import write_deberta, write_finbert
from tests.training_data import WORDS
from tune.adapter_export import SplitModel
from tune.adapters import add_adapters, merge, save_adapters
from tune.export import export
from tune.pretrained import load_classifier

TEXTS = [" ".join(WORDS[first : first + 1 + first % 7]) for first in range(50)]


def adapted(base: Path, folder: Path, labels: Sequence[str], lora: Lora, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """Adapters with random weights, exported in two parts in fp32, and compared with what they give in torch."""
    monkeypatch.setattr("tune.export.MAX_INT8_LOSS", -1.0)

    def load() -> torch.nn.Module:
        return load_classifier(str(base), labels, tokenizer.pad_token_id, frozen=True)

    tokenizer = load_tokenizer(str(base), 16)
    model = add_adapters(load(), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(std=0.2)
    save_adapters(model, folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    merged = merge(load(), folder / "checkpoint", folder / "merged")
    split = SplitModel.of(load(), folder / "checkpoint")
    export(merged, folder / "onnx", max_length=16, texts=TEXTS, labels=[labels[0]] * len(TEXTS), split=split)
    classifier = Classifier.load(folder / "onnx")
    assert classifier.logits(TEXTS) == pytest.approx(by_torch(merged), abs=1e-4)
    return classifier


def by_torch(folder: Path) -> np.ndarray:
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.inference_mode():
        inputs = (tokenizer(text, truncation=True, max_length=16, return_tensors="pt") for text in TEXTS)
        return np.concatenate([model(**each).logits.numpy() for each in inputs])


def test_adapters_of_any_rank_and_any_labels_have_one_base_model_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    base = write_finbert(tmp_path / "base", WORDS, labels=("LABEL_0", "LABEL_1"))

    large = adapted(base, tmp_path / "large", ("a", "b", "c"), Lora(r=8, alpha=4), monkeypatch)
    small = adapted(base, tmp_path / "small", ("x", "y"), Lora(r=1, alpha=2), monkeypatch)

    assert base_of(tmp_path / "large" / "onnx") == base_of(tmp_path / "small" / "onnx") is not None
    files = [tmp_path / name / "onnx" / "model.onnx" for name in ("large", "small")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert (large.labels, small.labels) == (("a", "b", "c"), ("x", "y"))


@pytest.mark.slow
def test_a_deberta_is_exported_in_two_parts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    base = write_deberta(tmp_path / "base")
    lora = Lora(r=4, target_modules=("query_proj", "value_proj"))
    assert adapted(base, tmp_path, ("a", "b", "c"), lora, monkeypatch).precision == "fp32"
