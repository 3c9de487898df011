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


def register(tracking_uri: str, name: str, folder: Path, *, swapped: bool = False) -> int:
    """Registers a model with an `onnx` folder as the next version of `name`, its artifacts in `folder`."""
    build_engine(folder / "onnx", swapped=swapped)
    client = mlflow.MlflowClient(tracking_uri, registry_uri=tracking_uri)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return int(client.create_model_version(name, str(folder)).version)


def _graph() -> onnx.ModelProto:
    """logits (B, 2) = sum over T of WEIGHTS[input_ids (B, T)] * attention_mask (B, T)."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["by_token"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_column"]),
        helper.make_node("Mul", ["by_token", "mask_column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "over_tokens"], ["logits"], keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(WEIGHTS, "weights"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "over_tokens"),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(nodes, "tiny", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
