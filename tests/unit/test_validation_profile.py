"""The profile counts what the model answered, and survives being written."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.validation_profile import PROFILE_FILE, ValidationProfile

LABELS = ("bad", "good", "neither")


def of(scores: list[float]) -> ValidationProfile:
    """All rows say `good` with these scores."""
    rest = 1 - np.array(scores)
    return ValidationProfile.of(LABELS, np.stack([0.6 * rest, scores, 0.4 * rest], axis=1))


def test_labels_are_counted_also_those_that_no_row_was_given() -> None:
    assert of([0.9, 0.8]).label_counts == {"bad": 0, "good": 2, "neither": 0}
    assert of([0.9, 0.8]).mean_score == pytest.approx(0.85)


def test_every_bin_holds_as_many_rows() -> None:
    profile = of(np.linspace(0.6, 0.99, 100).tolist())

    assert profile.score_counts == (10,) * 10


def test_scores_that_are_all_the_same_are_one_bin_beside_an_empty_one() -> None:
    assert of([0.9] * 20).score_counts == (0, 20)


@given(arrays.arrays(np.float64, (7, 3), elements=st.floats(0.01, 1.0)))
def test_a_profile_is_read_as_it_was_written(weights: np.ndarray) -> None:
    profile = ValidationProfile.of(LABELS, weights / weights.sum(axis=1, keepdims=True))

    assert ValidationProfile.parse(profile.dump()) == profile
    assert profile.num_rows == sum(profile.label_counts.values()) == 7


def test_a_version_without_a_profile_has_none(tmp_path: Path) -> None:
    assert ValidationProfile.read(str(tmp_path)) is None


@pytest.mark.parametrize(
    "content", ["[]", "{}", "nothing", '{"label_counts": 1, "score_edges": [], "score_counts": []}']
)
def test_what_is_no_profile_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / PROFILE_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"not a|Expecting"):
        ValidationProfile.read(str(tmp_path))
