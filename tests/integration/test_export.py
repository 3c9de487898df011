"""Real ONNX exports, which take seconds each; no Ray."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.classifier import Classifier
from common.errors import PromotionError
from common.tokenised import PreparedData, read_split
from common.validation_profile import ValidationProfile
from serve.gpu import load_on
from tests.candidates import fine_tune, prepare_texts
from tune.export import ExportReport, export


@dataclass(frozen=True)
class Case:
    checkpoint: Path
    texts: list[str]
    labels: list[str]
    prepared: PreparedData

    def export(self, folder: Path) -> ExportReport:
        return export(self.checkpoint, folder, max_length=16, texts=self.texts, labels=self.labels)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("export")
    _, prepared = prepare_texts(folder)
    rows = read_split(prepared, "validation")
    labels = [prepared.labels[index] for index in rows["label"].to_pylist()]
    return Case(
        fine_tune(prepared, folder / "checkpoint", learning_rate=1e-2), rows["text"].to_pylist(), labels, prepared
    )


@pytest.fixture(scope="module")
def fp32_file(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 graph, for tests of what happens to it afterwards."""
    folder = tmp_path_factory.mktemp("fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.export.MAX_INT8_LOSS", -1.0)
        case.export(folder / "onnx")
    return folder / "onnx" / "model.onnx"


@pytest.fixture
def exports_at_once(fp32_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(model: object, tokenizer: object, path: Path) -> None:
        shutil.copy(fp32_file, path)

    monkeypatch.setattr("tune.export._export_fp32", copy)


def test_an_export_serves_as_it_was_trained_and_prints_nothing(
    case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = case.export(tmp_path / "onnx")
    printed = capfd.readouterr()

    assert (printed.out, printed.err) == ("", "")
    assert report.precision == "int8"
    assert report.int8_accuracy >= report.fp32_accuracy - 0.005
    assert report.fp32_accuracy > 0.8
    assert report.rows == len(case.texts)
    assert report.num_bytes == (tmp_path / "onnx/model.onnx").stat().st_size
    assert json.loads((tmp_path / "onnx/labels.json").read_text()) == {
        "labels": list(case.prepared.labels),
        "max_length": 16,
        "pad_token_id": 0,
        "precision": "int8",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx"]


@pytest.mark.usefixtures("exports_at_once")
def test_an_export_says_what_it_answers_on_the_validation_split(case: Case, tmp_path: Path) -> None:
    case.export(tmp_path / "onnx")

    profile = ValidationProfile.read(str(tmp_path / "onnx"))

    answers = Classifier.load(tmp_path / "onnx").classify(case.texts)
    assert profile is not None
    assert {label: count for label, count in profile.label_counts.items() if count} == Counter(
        answer.label for answer in answers
    )
    assert profile.mean_score == pytest.approx(np.mean([answer.score for answer in answers]))


@pytest.mark.usefixtures("exports_at_once")
def test_the_graph_takes_any_batch_and_any_length(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.export.MAX_INT8_LOSS", -1.0)
    assert case.export(tmp_path / "onnx").precision == "fp32"
    model = AutoModelForSequenceClassification.from_pretrained(case.checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(case.checkpoint)
    texts = ["w1", "w1 w2 w3", "w5 " * 40, "", *case.texts[:37]]

    logits = Classifier.load(tmp_path / "onnx").logits(texts)

    for text, row in zip(texts, logits, strict=True):
        with torch.inference_mode():
            inputs = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
            assert row == pytest.approx(model(**inputs).logits[0].numpy(), abs=1e-4)


@pytest.mark.parametrize(("dtype", "difference"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_the_engine_of_a_gpu_gives_what_the_export_gives(
    case: Case, fp32_file: Path, dtype: torch.dtype, difference: float
) -> None:
    exported = Classifier.load(fp32_file.parent)

    by_torch = load_on(torch.device("cpu"), dtype, fp32_file.parent, case.checkpoint)

    assert by_torch.logits(case.texts) == pytest.approx(exported.logits(case.texts), abs=difference)
    labels = [[found.label for found in engine.classify(case.texts)] for engine in (exported, by_torch)]
    assert np.mean(np.array(labels[0]) == np.array(labels[1])) > 0.98


@pytest.mark.usefixtures("exports_at_once")
@pytest.mark.parametrize(("accuracies", "kept"), [((0.95, 0.9451), "int8"), ((0.95, 0.9449), "fp32")])
def test_int8_is_kept_within_half_a_point(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: tuple[float, float], kept: str
) -> None:
    in_turn = iter(accuracies)
    monkeypatch.setattr("tune.export._Answers.accuracy", lambda *_: next(in_turn))

    report = case.export(tmp_path / "onnx")

    assert report.precision == kept == Classifier.load(tmp_path / "onnx").precision
    assert (report.fp32_accuracy, report.int8_accuracy) == accuracies


@pytest.mark.usefixtures("exports_at_once")
def test_an_export_that_differs_from_torch_is_an_error_and_leaves_nothing(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = Classifier.logits
    monkeypatch.setattr(Classifier, "logits", lambda self, texts: np.flip(swapped(self, texts), axis=1))

    with pytest.raises(PromotionError, match=r"differs from torch by .* in a logit"):
        case.export(tmp_path / "onnx")
    assert list((tmp_path / "onnx").iterdir()) == []


def test_a_model_that_cannot_be_exported_is_an_error(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise torch.onnx.OnnxExporterError("no such operator\nand much more")

    monkeypatch.setattr("torch.onnx.export", refuse)

    with pytest.raises(PromotionError, match=r"cannot be exported to ONNX \(no such operator\)"):
        case.export(tmp_path / "onnx")
