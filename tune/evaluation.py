"""Scoring a candidate and the champion on the test split, each by the ONNX model that serves."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.classifier import Classifier
from common.dataset import text_hash64
from common.errors import PromotionError, RegistryError
from common.metrics import accuracy, macro_f1
from common.model_settings import ONNX_FOLDER
from common.recipe import QuickCheck
from common.registry import ModelRegistry, ModelVersion
from tune.gate import Indices, Rivalry

TRAINED_ON_FOLDER = "trained_on"
"""In a version's artifacts: hashes of the texts that it was fitted to or selected by, and so must not be judged on."""

_HASHES_FILE = "text_hashes.npy"


@dataclass(frozen=True)
class Answers:
    """A candidate's answers on the test split; indices are into `labels`."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    predicted: Indices
    actual: Indices

    def metrics(self) -> dict[str, float]:
        """On the whole test split."""
        return {
            "accuracy": accuracy(self.predicted, self.actual),
            "macro_f1": macro_f1(self.predicted, self.actual, len(self.labels)),
        }


def load_classifier(folder: Path) -> Classifier:
    """The classifier in `folder`, on all cores."""
    return Classifier.load(folder, num_threads=os.cpu_count() or 1)


def answer(candidate: Classifier, test: pa.Table, labels: Sequence[str], champion_labels: Sequence[str]) -> Answers:
    """The candidate's answers on the rows of `test` (columns text, label: an index into `labels`).

    The answers' labels hold those of both models, so that a champion with other labels can be compared.
    """
    union = tuple(sorted({*labels, *candidate.labels, *champion_labels}))
    texts = tuple(test["text"].to_pylist())
    actual = _translation(labels, union)[test["label"].to_numpy()]
    return Answers(union, texts, _predict(candidate, texts, union), actual)


def rival(registry: ModelRegistry, champion: ModelVersion, work: Path) -> "Champion":
    """Downloads the champion below `work`. Raises `PromotionError` when it was not promoted by this project."""
    try:
        onnx = registry.download(champion, ONNX_FOLDER, work)
        hashes = registry.download(champion, TRAINED_ON_FOLDER, work)
    except RegistryError as error:
        raise PromotionError(
            f"version {champion.version} of {champion.name!r}, the present champion, cannot be compared with: {error}. "
            "If it was registered by other means, name another registry.model or registry.alias"
        ) from error
    return Champion(champion.version, load_classifier(onnx), np.load(hashes / _HASHES_FILE, allow_pickle=False))


@dataclass(frozen=True)
class Champion:
    """The present champion, ready to answer."""

    version: int
    classifier: Classifier
    trained_on: npt.NDArray[np.uint64]

    def rivalry(self, answers: Answers) -> Rivalry:
        """Its answers on the test rows that it was not trained on."""
        rows = ~np.isin(text_hash64(answers.texts), self.trained_on)
        texts = [text for text, fair in zip(answers.texts, rows, strict=True) if fair]
        return Rivalry(self.version, _predict(self.classifier, texts, answers.labels), rows)


def write_trained_on(folder: Path, texts: Sequence[str]) -> None:
    """Remembers, in the new `folder`, the texts a model was trained on."""
    folder.mkdir()
    np.save(folder / _HASHES_FILE, np.unique(text_hash64(texts)), allow_pickle=False)


def quick_check_failures(
    checks: Sequence[QuickCheck], labels: Sequence[str], classify: Callable[[list[str]], list[str]], when: str
) -> list[str]:
    """One line for each check whose text does not get its label; `when` says at what point that was."""
    if not checks:
        return []
    failures = []
    for check, given in zip(checks, classify([check.text for check in checks]), strict=True):
        if given != check.label:
            unknown = "" if check.label in labels else f", which is not a label of this model ({', '.join(labels)})"
            failures.append(f"quick check {check.text!r} {when} gave {given!r}, not {check.label!r}{unknown}")
    return failures


def _predict(classifier: Classifier, texts: Sequence[str], union: Sequence[str]) -> Indices:
    best: Indices = classifier.logits(texts).argmax(axis=1)
    return _translation(classifier.labels, union)[best]


def _translation(labels: Sequence[str], union: Sequence[str]) -> Indices:
    """(C,) for each label's index, its index in `union`."""
    return np.array([union.index(label) for label in labels], dtype=np.int64)
