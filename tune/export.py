"""From a checkpoint to the ONNX files that serve: `common.classifier` reads what this writes."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Self

import numpy as np
import onnx
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic

from common.classifier import MODEL_FILE, TOKENIZER_FILE, Classifier, Logits, probabilities
from common.errors import PromotionError
from common.model_settings import LABELS_FILE
from common.validation_profile import PROFILE_FILE, ValidationProfile
from tune.adapter_export import SplitModel
from tune.quiet import quiet

MAX_INT8_LOSS = 0.005
"""Accuracy on the validation split that int8 may cost, as a fraction; beyond it fp32 is kept."""

MAX_LOGIT_DIFFERENCE = 1e-3
"""Largest difference of any logit between torch and ONNX Runtime, both in fp32."""

MAX_VALIDATION_ROWS = 5000
MAX_PARITY_ROWS = 64


@dataclass(frozen=True)
class ExportReport:
    """What was kept and what it was held against; accuracies are fractions of the validation rows scored."""

    precision: Literal["fp32", "int8"]
    max_logit_difference: float
    fp32_accuracy: float
    int8_accuracy: float
    rows: int
    num_bytes: int
    seconds: float


def export(
    checkpoint: Path,
    folder: Path,
    *,
    max_length: int,
    texts: Sequence[str],
    labels: Sequence[str],
    split: SplitModel | None = None,
) -> ExportReport:
    """Writes `model.onnx`, `tokenizer.json` and `labels.json` into `folder`; int8 where that keeps the accuracy.

    `texts` and `labels` are the validation split, whose answers go into `validation_profile.json`. The graph takes any
    batch size and any length up to `max_length`. With `split`, the same model as a base model and adapters, these are
    written as two files, of which the base model's can be shared; adapters and head stay in fp32.

    Raises:
        PromotionError: when the model cannot be exported, or ONNX Runtime does not give what torch gives.
    """
    started = time.perf_counter()
    step = -(-len(texts) // MAX_VALIDATION_ROWS) or 1
    texts, actual = list(texts)[::step], np.array(labels)[::step]
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as temporary, quiet("torch.onnx", "root"):
        model, tokenizer = _load(checkpoint)
        fp32, int8 = Path(temporary, "fp32"), Path(temporary, "int8")
        _write_settings(fp32, model, tokenizer, max_length, "fp32")
        _write_settings(int8, model, tokenizer, max_length, "int8")
        try:
            if split is None:
                _export_fp32(model, tokenizer, fp32 / MODEL_FILE)
            else:
                split.export(tokenizer, fp32 / MODEL_FILE)
                split.write_adapter(fp32, MODEL_FILE)
        except torch.onnx.OnnxExporterError as error:
            raise PromotionError(
                f"{checkpoint} cannot be exported to ONNX ({str(error).strip().splitlines()[0]}); the model was not "
                "registered: try another base model"
            ) from error
        difference = _logit_difference(model, tokenizer, Classifier.load(fp32), texts[:MAX_PARITY_ROWS])
        if difference > MAX_LOGIT_DIFFERENCE:
            raise PromotionError(
                f"the ONNX export of {checkpoint} differs from torch by {difference:.2g} in a logit, more than "
                f"{MAX_LOGIT_DIFFERENCE:g}; the model was not registered: try another base model, or report this one"
            )
        _quantise(fp32 / MODEL_FILE, int8 / MODEL_FILE)
        if split is not None:
            split.write_adapter(int8, MODEL_FILE)
        fp32_answers, int8_answers = (_Answers.of(tried, texts) for tried in (fp32, int8))
        fp32_accuracy, int8_accuracy = fp32_answers.accuracy(actual), int8_answers.accuracy(actual)
        is_int8 = int8_accuracy >= fp32_accuracy - MAX_INT8_LOSS
        shutil.copytree(int8 if is_int8 else fp32, folder, dirs_exist_ok=True)
        profile = (int8_answers if is_int8 else fp32_answers).profile()
        (folder / PROFILE_FILE).write_text(profile.dump(), encoding="utf-8")
    return ExportReport(
        precision="int8" if is_int8 else "fp32",
        max_logit_difference=difference,
        fp32_accuracy=fp32_accuracy,
        int8_accuracy=int8_accuracy,
        rows=len(texts),
        num_bytes=(folder / MODEL_FILE).stat().st_size,
        seconds=time.perf_counter() - started,
    )


class _Logits(torch.nn.Module):
    """The exporter wants positional tensors in and tensors out."""

    def __init__(self, model: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """(B, T) token tensors, in the order of `names`, to (B, C) logits."""
        logits: torch.Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def _load(checkpoint: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(checkpoint)


def _export_fp32(model: Any, tokenizer: Any, path: Path) -> None:
    names = list(tokenizer.model_input_names)
    # Two rows of several tokens: the exporter takes a dimension of 1 for a constant.
    example = tokenizer(["one text", "another, longer text"], padding=True, return_tensors="pt")
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    torch.onnx.export(
        _Logits(model, names).eval(),
        tuple(example[name] for name in names),
        path,
        input_names=names,
        output_names=["logits"],
        dynamic_shapes=(tuple(axes for _ in names),),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _quantise(source: Path, target: Path) -> None:
    model = onnx.load(source)
    # The exporter's shapes name dimensions in a way that the quantiser's shape inference takes for a contradiction.
    del model.graph.value_info[:]
    quantize_dynamic(model, target, weight_type=QuantType.QInt8)


def _write_settings(folder: Path, model: Any, tokenizer: Any, max_length: int, precision: str) -> None:
    folder.mkdir(parents=True)
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    settings = {
        "labels": labels,
        "max_length": max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "precision": precision,
    }
    (folder / LABELS_FILE).write_text(json.dumps(settings, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _logit_difference(model: Any, tokenizer: Any, classifier: Classifier, texts: Sequence[str]) -> float:
    """Largest absolute difference over all texts and labels: the tokenisation is compared with it."""
    inputs = tokenizer(
        list(texts), padding=True, truncation=True, max_length=classifier.max_length, return_tensors="pt"
    )
    with torch.inference_mode():
        expected: Logits = model(**inputs).logits.numpy()
    return float(np.abs(expected - classifier.logits(texts)).max())


@dataclass(frozen=True)
class _Answers:
    """What an export answers on the validation split."""

    labels: tuple[str, ...]
    logits: Logits
    """(N, C), columns in the order of `labels`."""

    @classmethod
    def of(cls, folder: Path, texts: Sequence[str]) -> Self:
        classifier = Classifier.load(folder, num_threads=os.cpu_count() or 1)
        return cls(classifier.labels, classifier.logits(texts))

    def accuracy(self, actual: np.ndarray[Any, Any]) -> float:
        return float(np.mean(np.array(self.labels)[self.logits.argmax(axis=1)] == actual))

    def profile(self) -> ValidationProfile:
        return ValidationProfile.of(self.labels, probabilities(self.logits))
