"""The winner's answers on the validation split are those that it was ranked by."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training_data import LABELS, loop_settings, prepared_data, write_base_model, write_data
from tune.mistakes import Answers, validation_answers
from tune.stored_sweep import Missing
from tune.train_loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, float]]:
    """Prepared data, a checkpoint of one epoch on it, and its metrics."""
    folder = tmp_path_factory.mktemp("trained")
    base = write_base_model(folder / "base")
    data = write_data(folder / "data")
    prepared_data(data, base)
    seen: list[dict[str, float]] = []

    def keep(metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        checkpoint.rename(folder / "checkpoint")
        checkpoint.mkdir()
        seen.append(metrics)

    train(loop_settings(data, base, epochs=1), keep)
    return data, folder / "checkpoint", seen[0]


def test_the_checkpoint_answers_as_it_did_in_training_and_the_test_split_is_not_opened(
    trained: tuple[Path, Path, dict[str, float]],
) -> None:
    data, checkpoint, metrics = trained
    (data / "test.arrow").unlink(missing_ok=True)
    answers = validation_answers(str(checkpoint), str(data), "fp32")
    assert isinstance(answers, Answers)
    assert answers.metrics == {name: pytest.approx(metrics[name]) for name in ("accuracy", "macro_f1")}
    assert len(answers.texts) == 31
    assert answers.labels == LABELS


def test_what_was_trained_in_fp16_is_asked_without_a_gpu_too(trained: tuple[Path, Path, dict[str, float]]) -> None:
    data, checkpoint, _ = trained
    assert isinstance(validation_answers(str(checkpoint), str(data), "fp16"), Answers)


def test_what_is_gone_is_said(trained: tuple[Path, Path, dict[str, float]], tmp_path: Path) -> None:
    data, checkpoint, _ = trained
    no_checkpoint = validation_answers(str(tmp_path / "none"), str(data), "fp32")
    no_data = validation_answers(str(checkpoint), str(tmp_path / "none"), "fp32")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    broken = validation_answers(str(tmp_path / "broken"), str(data), "fp32")
    assert isinstance(no_checkpoint, Missing)
    assert "is not a checkpoint" in no_checkpoint.reason
    assert isinstance(no_data, Missing)
    assert "is not a prepared data folder" in no_data.reason
    assert isinstance(broken, Missing)


def answers(*rows: tuple[int, list[float]]) -> Answers:
    actual = np.array([label for label, _ in rows], dtype=np.int64)
    texts = [f"text {row}" for row in range(len(rows))]
    return Answers(("a", "b", "c"), texts, actual, np.array([scores for _, scores in rows]))


def test_mistakes_are_the_wrong_answers_the_surest_first() -> None:
    found = answers(
        (0, [0.9, 0.1, 0.0]),  # right
        (1, [0.6, 0.4, 0.0]),
        (2, [0.0, 0.8, 0.2]),
        (0, [0.3, 0.0, 0.7]),
    ).mistakes(2)
    assert [(m.text, m.given, m.predicted, m.probability) for m in found] == [
        ("text 2", "c", "b", 0.8),
        ("text 3", "a", "c", 0.7),
    ]


def test_confusions_are_counted_in_one_direction_with_their_share_of_the_given_label() -> None:
    to_b, to_c, right = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]
    found = answers((0, to_b), (0, to_b), (0, to_c), (0, right), (1, right)).confusions(2)
    assert [(c.given, c.predicted, c.count, c.share) for c in found] == [("a", "b", 2, 0.5), ("a", "c", 1, 0.25)]


def test_a_model_without_mistakes_has_none_to_show() -> None:
    perfect = answers((0, [1.0, 0.0, 0.0]), (2, [0.0, 0.0, 1.0]))
    assert perfect.mistakes(10) == []
    assert perfect.confusions(10) == []


@given(st.lists(st.tuples(st.integers(0, 2), st.permutations([0.6, 0.3, 0.1])), min_size=1, max_size=40))
def test_the_matrix_the_confusions_and_the_mistakes_agree(rows: list[tuple[int, list[float]]]) -> None:
    found = answers(*rows)
    wrong = int(found.matrix.sum() - np.trace(found.matrix))
    assert found.matrix.sum() == len(rows)
    assert len(found.mistakes(len(rows))) == wrong
    assert sum(pair.count for pair in found.confusions(9)) == wrong
    assert found.metrics["accuracy"] == pytest.approx(1 - wrong / len(rows))
