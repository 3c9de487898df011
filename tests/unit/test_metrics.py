import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from common.metrics import accuracy, accuracy_of, confusion_matrix, direction, macro_f1, macro_f1_of, score

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=50)


@given(PAIRS)
def test_metrics_are_those_of_scikit_learn(pairs):
    predicted, actual = zip(*pairs, strict=True)
    assert accuracy(predicted, actual) == pytest.approx(accuracy_score(actual, predicted))
    assert macro_f1(predicted, actual, 5) == pytest.approx(
        f1_score(actual, predicted, average="macro", zero_division=0.0)
    )
    assert score("accuracy", predicted, actual, 5) == pytest.approx(accuracy(predicted, actual))
    assert score("macro_f1", predicted, actual, 5) == pytest.approx(macro_f1(predicted, actual, 5))


def test_a_row_of_the_confusion_matrix_is_an_actual_label():
    assert confusion_matrix(predicted=[0, 1, 1], actual=[0, 0, 1], num_labels=3).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


@given(st.lists(PAIRS, min_size=1, max_size=4))
def test_a_stack_of_confusion_matrices_is_scored_at_once(samples):
    matrices = [confusion_matrix(*zip(*pairs, strict=True), 5) for pairs in samples]
    assert accuracy_of(np.stack(matrices)).tolist() == [accuracy_of(matrix) for matrix in matrices]
    assert macro_f1_of(np.stack(matrices)).tolist() == [macro_f1_of(matrix) for matrix in matrices]


def test_scoring_says_what_does_not_fit():
    with pytest.raises(ValueError, match="2 predictions for 1 labels"):
        confusion_matrix([0, 1], [0], 2)
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        confusion_matrix([2], [0], 2)


def test_only_losses_are_minimised():
    assert [direction(metric) for metric in ("accuracy", "macro_f1", "loss", "train_loss")] == [
        "max",
        "max",
        "min",
        "min",
    ]
