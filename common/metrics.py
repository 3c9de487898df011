"""What a classifier is measured by. Everything follows from the confusion matrix; numpy only."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Labels = npt.ArrayLike
"""Label indices, shape (N,)."""


def confusion_matrix(predicted: Labels, actual: Labels, num_labels: int) -> npt.NDArray[np.int64]:
    """How often each actual label (row) was predicted as each label (column), shape (num_labels, num_labels).

    Raises:
        ValueError: the two differ in length, or an index is not below `num_labels`.
    """
    predicted, actual = np.asarray(predicted, dtype=np.int64), np.asarray(actual, dtype=np.int64)
    if predicted.shape != actual.shape:
        raise ValueError(f"{predicted.size} predictions for {actual.size} labels; give one for each")
    if actual.size and (min(predicted.min(), actual.min()) < 0 or max(predicted.max(), actual.max()) >= num_labels):
        raise ValueError(f"a label index lies outside 0..{num_labels - 1}")
    counts = np.bincount(actual * num_labels + predicted, minlength=num_labels * num_labels)
    return counts.reshape(num_labels, num_labels)


def accuracy_of(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Share of right predictions in each of a stack of confusion matrices, (..., C, C) -> (...)."""
    right = np.trace(matrix, axis1=-2, axis2=-1)
    share: npt.NDArray[np.float64] = np.divide(right, np.maximum(matrix.sum(axis=(-2, -1)), 1), dtype=np.float64)
    return share


def macro_f1_of(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean F1 over the labels that occur, in each of a stack of confusion matrices, (..., C, C) -> (...).

    A label occurs when a row has it or a prediction names it: scikit-learn's `f1_score(average="macro")`.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    named = matrix.sum(axis=-1) + matrix.sum(axis=-2)  # (..., C): times actual + times predicted
    f1 = np.divide(2.0 * right, np.maximum(named, 1), dtype=np.float64)
    mean: npt.NDArray[np.float64] = np.divide(f1.sum(axis=-1), np.maximum((named > 0).sum(axis=-1), 1))
    return mean


def accuracy(predicted: Labels, actual: Labels) -> float:
    """Share of predictions that are right."""
    return float(np.mean(np.asarray(predicted) == np.asarray(actual)))


def macro_f1(predicted: Labels, actual: Labels, num_labels: int) -> float:
    """Mean over the labels of the harmonic mean of precision and recall; see `macro_f1_of`."""
    return float(macro_f1_of(confusion_matrix(predicted, actual, num_labels)))


def score(metric: Literal["accuracy", "macro_f1"], predicted: Labels, actual: Labels, num_labels: int) -> float:
    """The value of the metric of that name."""
    matrix = confusion_matrix(predicted, actual, num_labels)
    return float(macro_f1_of(matrix) if metric == "macro_f1" else accuracy_of(matrix))


def direction(metric: str) -> Literal["max", "min"]:
    """Whether more (`max`) or less (`min`) of a metric is better: losses are minimised, all else is maximised."""
    return "min" if metric.endswith("loss") else "max"
