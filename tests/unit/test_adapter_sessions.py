"""Adapters on one base model: each answers as itself, and the base model is in memory once."""

import gc
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import common.classifier
from common.adapter import ADAPTER_FILE, Adapter, base_digest, base_of
from common.classifier import MODEL_FILE, Classifier
from common.errors import ModelError
from tests.tiny_model import build_adapter, build_engine


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that sessions were opened for."""
    paths: list[Path] = []
    open_session = common.classifier._open_session

    def open_and_note(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
        paths.append(path)
        return open_session(path, num_threads)

    monkeypatch.setattr(common.classifier, "_open_session", open_and_note)
    return paths


def label(classifier: Classifier) -> str:
    return classifier.classify(["good good"])[0].label


def test_each_adapter_answers_as_itself_and_the_base_model_is_opened_once(tmp_path: Path, opened: list[Path]) -> None:
    straight = Classifier.load(build_adapter(tmp_path / "straight"))
    turned = Classifier.load(build_adapter(tmp_path / "turned", swapped=True))

    assert (label(straight), label(turned), label(straight)) == ("good", "bad", "good")
    assert [path.parent.name for path in opened] == ["straight"]


def test_another_base_model_has_a_session_of_its_own(tmp_path: Path, opened: list[Path]) -> None:
    weak = Classifier.load(build_adapter(tmp_path / "weak", strength=0.5))
    strong = Classifier.load(build_adapter(tmp_path / "strong"))

    assert weak.logits(["good"]) == pytest.approx(strong.logits(["good"]) / 2)
    assert len(opened) == 2


def test_the_base_model_goes_with_the_last_of_its_adapters(tmp_path: Path, opened: list[Path]) -> None:
    folder = build_adapter(tmp_path / "adapter")
    one, other = Classifier.load(folder), Classifier.load(folder)
    del one
    gc.collect()
    third = Classifier.load(folder)
    assert len(opened) == 1
    del other, third
    gc.collect()
    Classifier.load(folder)
    assert len(opened) == 2


def test_models_of_one_tokenizer_hold_it_once_and_those_cut_elsewhere_do_not(tmp_path: Path) -> None:
    one, other, shorter = (build_engine(tmp_path / name) for name in ("one", "other", "shorter"))
    settings = (shorter / "labels.json").read_text()
    (shorter / "labels.json").write_text(settings.replace("64", "4"))
    loaded = [Classifier.load(folder) for folder in (one, other, shorter)]

    assert loaded[0]._tokenizer is loaded[1]._tokenizer
    assert [each.classify(["good " * 9])[0].truncated for each in loaded] == [False, False, True]


def test_an_adapter_beside_another_base_model_is_refused(tmp_path: Path) -> None:
    folder, other = build_adapter(tmp_path / "one"), build_adapter(tmp_path / "other", strength=0.5)
    shutil.copy(other / ADAPTER_FILE, folder)
    with pytest.raises(
        ModelError, match=r"one: adapter.npz belongs to another base model than the model.onnx beside it"
    ):
        Classifier.load(folder)


def test_an_adapter_that_the_base_models_inputs_do_not_fit_is_refused(tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "one")
    base = base_digest(folder / MODEL_FILE)
    for tensors in ({}, {"head": np.eye(3, dtype=np.float32)}, {"head": np.zeros((2, 2)), "more": np.zeros(1)}):
        Adapter(base, tensors).write(folder)
        with pytest.raises(ModelError, match=r"adapter.npz does not fit the inputs of its model"):
            Classifier.load(folder)


def test_a_head_with_more_outputs_than_there_are_labels_is_refused(tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "one")
    Adapter(base_digest(folder / MODEL_FILE), {"head": np.zeros((2, 3), dtype=np.float32)}).write(folder)
    with pytest.raises(ModelError, match=r"the model has 3 outputs and labels.json names 2 labels"):
        Classifier.load(folder)


@pytest.mark.parametrize("content", [b"", b"PK no archive"])
def test_a_broken_adapter_is_one_error(tmp_path: Path, content: bytes) -> None:
    folder = build_adapter(tmp_path / "one")
    (folder / ADAPTER_FILE).write_bytes(content)
    for read in (Classifier.load, base_of):
        with pytest.raises(ModelError, match=r"adapter.npz is not an adapter that can be read"):
            read(folder)
