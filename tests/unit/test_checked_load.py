from pathlib import Path

import pytest

from common.classifier import Classifier, Prediction
from common.errors import ServingError
from scripts.checked_load import Outcome, Question, questions, report
from serve.client import Prediction as Answer
from tests.tiny_model import build_engine

RIGHT = Prediction("good", 0.9, {"bad": 0.1, "good": 0.9}, (-1.0, 1.2), truncated=False)


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        (Answer("good", 0.9, {"bad": 0.1, "good": 0.9}, 1), True),
        (Answer("good", 0.9005, {"bad": 0.0995, "good": 0.9005}, 1), True),
        (Answer("bad", 0.9, {"bad": 0.1, "good": 0.9}, 1), False),
        (Answer("good", 0.8, {"bad": 0.2, "good": 0.8}, 1), False),
        (Answer("good", 0.9, {"good": 0.9}, 1), False),
    ],
)
def test_an_answer_is_right_when_its_label_and_all_its_scores_are(answer: Answer, is_right: bool) -> None:
    assert Question("text", RIGHT, tolerance=1e-3).is_answered_by(answer) == is_right


def test_only_texts_that_the_model_is_sure_of_are_asked(tmp_path: Path) -> None:
    classifier = Classifier.load(build_engine(tmp_path))

    assert [question.text for question in questions(classifier, ["good", "good bad", "bad"])] == ["good", "bad"]
    with pytest.raises(ServingError, match="sure of none of 1 texts"):
        questions(classifier, ["good bad"])


def test_a_report_is_about_the_questions_that_were_open_in_its_time() -> None:
    outcomes = [
        Outcome(0.0, 9.0, 0),  # before
        Outcome(9.5, 11.0, 0),
        Outcome(10.5, 16.0, 3),
        Outcome(12.0, 17.0, 7, "lost", "gone"),
        Outcome(16.5, 19.0, 0, "wrong", "good and not bad"),
        Outcome(19.0, 21.0, 1),
        Outcome(21.0, 22.0, 0),  # after
    ]

    found = report(outcomes, 10.0, 20.0)

    assert (found.num_answered, found.num_repetitions) == (3, 11)
    assert (found.lost, found.wrong) == (("gone",), ("good and not bad",))
    assert (found.longest_gap_s, found.slowest_s) == (5.0, 5.5)
