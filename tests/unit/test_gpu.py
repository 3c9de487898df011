"""The forward pass of a replica with a GPU, on the CPU: no GPU is needed for its arithmetic."""

import asyncio
import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from common.classifier import Classifier
from common.errors import ModelError, ServingError
from common.model_settings import weights_beside
from serve import gpu
from serve.engine import Model
from tests.tiny_model import LABELS, VOCABULARY, build_engine
from tests.training_data import write_base_model

CPU = torch.device("cpu")
TEXTS = ["good bad good", "bad", "", "good " * 30, *["good bad"] * 70]


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version's artifacts whose export and weights answer differently."""
    torch.manual_seed(0)
    build_engine(tmp_path / "onnx")
    write_base_model(tmp_path / "model", labels=LABELS)
    return tmp_path


def load(version: Path, dtype: torch.dtype = torch.float32) -> Classifier:
    return gpu.load_on(CPU, dtype, version / "onnx", version / "model")


def expected(version: Path, text: str) -> np.ndarray[Any, Any]:
    """What transformers makes of the text alone."""
    network = AutoModelForSequenceClassification.from_pretrained(version / "model").eval()
    ids = torch.tensor([[VOCABULARY[word] for word in text.split()] or [0]])
    with torch.inference_mode():
        logits = network(input_ids=ids, attention_mask=(ids != 0).long()).logits
    return np.asarray(logits[0].numpy())


def test_the_weights_answer_and_not_the_export(version: Path) -> None:
    logits = load(version).logits(TEXTS)

    assert logits.shape == (len(TEXTS), 2)
    for text, row in list(zip(TEXTS, logits, strict=True))[:5]:
        if text:  # transformers gives a text of padding alone no meaning
            assert row == pytest.approx(expected(version, text), abs=1e-5)


def test_sixteen_bits_change_little_and_come_back_as_fp32(version: Path) -> None:
    full, half = load(version).logits(TEXTS), load(version, torch.bfloat16).logits(TEXTS)

    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert half == pytest.approx(full, abs=0.05)


def test_texts_go_through_in_the_batches_that_the_gateway_sends(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward_by = gpu._forward_by

    def counting(*arguments: Any) -> Any:
        forward = forward_by(*arguments)
        return lambda inputs: (sizes.append(len(inputs["input_ids"])), forward(inputs))[1]

    monkeypatch.setattr(gpu, "_forward_by", counting)
    load(version).logits(TEXTS)

    assert sorted(sizes) == [10, 64]


def test_weights_of_other_labels_than_the_exports_are_refused(version: Path) -> None:
    write_base_model(version / "model", labels=reversed(LABELS))

    with pytest.raises(ModelError, match=r"labels \('good', 'bad'\) and .*\('bad', 'good'\); promote the model again"):
        load(version)


def test_weights_in_pickle_are_refused(version: Path) -> None:
    weights = version / "model" / "model.safetensors"
    torch.save({}, version / "model" / "pytorch_model.bin")
    weights.unlink()

    with pytest.raises(ModelError, match="holds no weights that transformers can load"):
        load(version)


def test_a_replica_that_sees_no_gpu_says_so_and_does_not_answer_from_the_cpu(
    version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")

    with pytest.raises(ServingError, match=r"this replica sees none .*CUDA_VISIBLE_DEVICES='7'.*serve.num_gpus=0"):
        asyncio.run(Model(on_gpu=True).classify(str(version / "onnx"), 1, ["good"]))


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bf16_where_it_has_it_and_else_in_fp16(
    version: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: torch.dtype
) -> None:
    chosen: list[tuple[str, torch.dtype]] = []
    on_cpu = load(version)

    def load_on(device: torch.device, dtype: torch.dtype, *folders: Path) -> Classifier:
        chosen.append((device.type, dtype))
        assert folders == (version / "onnx", version / "model")
        return on_cpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(gpu, "load_on", load_on)
    (answer,) = asyncio.run(Model(on_gpu=True).classify(str(version / "onnx"), 1, ["good"]))

    assert chosen == [("cuda", dtype)]
    assert answer["logits"] == pytest.approx(tuple(expected(version, "good")), abs=1e-5)


def test_a_replica_without_torch_names_the_extra(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_torch(name: str, *arguments: Any) -> Any:
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'")
        return imported(name, *arguments)

    monkeypatch.delitem(sys.modules, "serve.gpu")
    monkeypatch.setattr(builtins, "__import__", without_torch)

    with pytest.raises(ServingError, match=r"No module named 'torch'.*install tuneserve\[serve-gpu\]"):
        asyncio.run(Model(on_gpu=True).prepare(str(version / "onnx"), 1))


@pytest.mark.parametrize(
    ("uri", "weights"), [("/a/7/onnx", "/a/7/model"), ("s3://b/onnx/7/onnx/", "s3://b/onnx/7/model")]
)
def test_the_weights_are_beside_the_export(uri: str, weights: str) -> None:
    assert weights_beside(uri) == weights
