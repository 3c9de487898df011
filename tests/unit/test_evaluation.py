from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.dataset import text_hash64
from common.recipe import QuickCheck
from tests.tiny_model import build_engine
from tune.evaluation import Champion, answer, load_classifier, quick_check_failures, write_trained_on

TEST_ROWS = pa.table({"text": ["good", "bad", "good good", "bad bad"], "label": pa.array([1, 0, 0, 0], pa.int32())})
"""Labels are places in (bad, good); the third row is labelled wrongly."""


def test_answers_are_scored_by_label_not_by_the_place_of_a_label(tmp_path: Path) -> None:
    candidate = load_classifier(build_engine(tmp_path))

    for labels, rows in [
        (("bad", "good"), TEST_ROWS),
        (("good", "bad"), TEST_ROWS.set_column(1, "label", pa.array([0, 1, 1, 1], pa.int32()))),
    ]:
        answers = answer(candidate, rows, labels, ())
        assert answers.labels == ("bad", "good")
        assert answers.predicted.tolist() == [1, 0, 1, 0]
        assert answers.actual.tolist() == [1, 0, 0, 0]
        assert answers.metrics() == {"accuracy": 0.75, "macro_f1": pytest.approx((0.8 + 2 / 3) / 2)}


def test_a_champion_with_other_labels_is_compared_by_their_names(tmp_path: Path) -> None:
    candidate = load_classifier(build_engine(tmp_path / "candidate"))
    file = build_engine(tmp_path / "champion") / "labels.json"
    file.write_text(file.read_text().replace('"bad"', '"awful"'))
    champion = Champion(1, load_classifier(tmp_path / "champion"), np.array([], dtype=np.uint64))

    answers = answer(candidate, TEST_ROWS, ("bad", "good"), champion.classifier.labels)
    rivalry = champion.rivalry(answers)

    assert answers.labels == ("awful", "bad", "good")
    assert answers.actual.tolist() == [2, 1, 1, 1]
    assert rivalry.predicted.tolist() == [2, 0, 2, 0]


def test_a_champion_answers_only_for_rows_it_was_not_trained_on(tmp_path: Path) -> None:
    candidate = load_classifier(build_engine(tmp_path / "candidate"))
    write_trained_on(tmp_path / "trained_on", ["bad", "elsewhere", "bad"])
    trained_on = np.load(tmp_path / "trained_on/text_hashes.npy")
    champion = Champion(1, candidate, trained_on)

    rivalry = champion.rivalry(answer(candidate, TEST_ROWS, ("bad", "good"), ()))

    assert sorted(trained_on) == sorted(text_hash64(["bad", "elsewhere"]))
    assert rivalry.rows.tolist() == [True, False, True, True]
    assert rivalry.predicted.tolist() == [1, 1, 0]


def test_a_wrong_answer_to_a_quick_check_is_told_with_what_was_wanted() -> None:
    checks = [QuickCheck(text="a", label="x"), QuickCheck(text="b", label="y"), QuickCheck(text="c", label="z")]

    failures = quick_check_failures(checks, ["x", "y"], lambda texts: ["x" for _ in texts], "before logging")

    assert failures == [
        "quick check 'b' before logging gave 'x', not 'y'",
        "quick check 'c' before logging gave 'x', not 'z', which is not a label of this model (x, y)",
    ]


def test_without_quick_checks_nothing_is_asked() -> None:
    assert quick_check_failures([], ["x"], lambda texts: pytest.fail("asked"), "before logging") == []
