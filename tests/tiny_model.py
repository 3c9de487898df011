"""A servable model made in milliseconds: a linear layer over token counts, as ONNX, with a word-level tokenizer.

It says `good` of a text that holds more "good" than "bad" and `bad` of the opposite; `swapped` names the labels the
other way round, which tells two versions apart by their answers.
"""

import json
from pathlib import Path

import mlflow
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from common.adapter import Adapter, base_digest
from common.validation_profile import PROFILE_FILE, ValidationProfile

VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}
LABELS = ("bad", "good")
# Logits for (bad, good) that each token adds.
WEIGHTS = np.array([[0, 0], [0, 0], [-2, 2], [2, -2]], dtype=np.float32)


def build_engine(folder: Path, *, swapped: bool = False) -> Path:
    """Writes what a promotion leaves in a version's `onnx` folder into `folder` and returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_graph(), str(folder / "model.onnx"))
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    labels = list(reversed(LABELS)) if swapped else list(LABELS)
    settings = {"labels": labels, "max_length": 64, "pad_token_id": 0, "precision": "fp32"}
    (folder / "labels.json").write_text(json.dumps(settings), encoding="utf-8")
    profile = ValidationProfile.of(labels, np.array([[0.1, 0.9], [0.8, 0.2]]))
    (folder / PROFILE_FILE).write_text(profile.dump(), encoding="utf-8")
    return folder


def build_adapter(folder: Path, *, swapped: bool = False, strength: float = 1.0) -> Path:
    """The same as an adapter on a base model, whose weights are times `strength`: what is swapped is the head."""
    build_engine(folder)
    base = folder / "model.onnx"
    onnx.save(_graph(WEIGHTS * np.float32(strength), with_head=True), str(base))
    head = np.eye(2, dtype=np.float32)
    Adapter(base_digest(base), {"head": np.flip(head, axis=1) if swapped else head}).write(folder)
    return folder


def register(tracking_uri: str, name: str, folder: Path, *, swapped: bool = False, adapter: bool = False) -> int:
    """Registers a model with an `onnx` folder as the next version of `name`, its artifacts in `folder`."""
    (build_adapter if adapter else build_engine)(folder / "onnx", swapped=swapped)
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return int(client.create_model_version(name, str(folder)).version)


def _graph(weights: np.ndarray = WEIGHTS, *, with_head: bool = False) -> onnx.ModelProto:
    """logits (B, 2) = sum over T of weights[input_ids (B, T)] * attention_mask (B, T); times head (2, C), if any."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["by_token"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["by_token", "mask_column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "over_tokens"], ["sums" if with_head else "logits"], keepdims=0),
    ]
    if with_head:
        inputs.append(helper.make_tensor_value_info("head", TensorProto.FLOAT, [2, "labels"]))
        nodes.append(helper.make_node("MatMul", ["sums", "head"], ["logits"]))
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "over_tokens"),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "labels" if with_head else 2])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
