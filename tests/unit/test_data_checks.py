import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from common.data_checks import examine, shortest_max_length
from common.dataset import SPLITS, Splits


def splits_of(train, validation=None, test=None, num_empty=0):
    """Splits of (text, label) rows; what is not given is a harmless side of its own."""
    sides = {
        "train": train,
        "validation": validation or harmless("validation"),
        "test": test or harmless("test"),
    }
    tables = {
        side: pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
        for side, rows in sides.items()
    }
    labels = tuple(sorted({label for _, label in train}))
    return Splits(**tables, labels=labels, digest="", source="memory", num_empty=num_empty)


def harmless(side, number=200):
    return [(f"{side} {row}", "ab"[row % 2]) for row in range(number)]


def found(splits, check, lengths=None, max_length=128):
    return [finding for finding in examine(splits, lengths, max_length) if finding.check == check]


def test_sound_data_has_no_finding():
    assert examine(splits_of(harmless("train")), None, 128) == []


def test_repeats_are_counted_within_a_split():
    rows = [*harmless("train"), ("train 0", "a"), ("train 0", "a"), ("train 1", "b")]
    (finding,) = found(splits_of(rows), "duplicates")
    assert (finding.severity, finding.count) == ("info", 3)
    assert finding.examples[0] == "3 times 'train 0'"


def test_a_text_with_two_labels_is_shown_with_both():
    (finding,) = found(splits_of([*harmless("train"), ("train 0", "b")]), "conflicting_labels")
    assert (finding.severity, finding.count) == ("warning", 1)
    assert finding.examples == ("'train 0': a, b",)


@pytest.mark.parametrize(("leaked", "severity"), [(2, "warning"), (3, "error")])
def test_leakage_is_an_error_above_one_percent_of_the_split(leaked, severity):
    test = [*harmless("test")[leaked:], *harmless("train")[:leaked]]
    (finding,) = found(splits_of(harmless("train"), test=test), "leakage")
    assert (finding.severity, finding.count) == (severity, leaked)
    assert "test rows have a text that is also in train" in finding.message


@pytest.mark.parametrize(("minority", "severity"), [(67, None), (66, "info"), (20, "warning")])
def test_imbalance_grows_graver(minority, severity):
    rows = [(f"train {row}", "a") for row in range(200)] + [(f"rare {row}", "b") for row in range(minority)]
    assert [finding.severity for finding in found(splits_of(rows), "class_imbalance")] == [severity][: bool(severity)]


def test_imbalance_tells_what_a_constant_answer_scores():
    rows = [(f"train {row}", "a") for row in range(90)] + [(f"rare {row}", "b") for row in range(10)]
    (finding,) = found(splits_of(rows), "class_imbalance")
    assert "always answering 'a' would be 90.0% accurate" in finding.message


def test_a_class_missing_from_a_split_is_a_warning_and_a_thin_one_is_told():
    train = [*harmless("train"), *((f"rare {row}", "c") for row in range(50))]
    (absent,) = found(splits_of(train), "small_class")
    assert (absent.severity, absent.examples) == ("warning", ("'c': 0 in validation, 0 in test",))
    thin = {
        side: [*harmless(side), *((f"{side} rare {row}", "c") for row in range(9))] for side in ("validation", "test")
    }
    (few,) = found(splits_of(train, **thin), "small_class")
    assert (few.severity, few.examples) == ("info", ("'c': 9 in validation, 9 in test",))


def test_wrongly_decoded_texts_are_shown_with_their_repair():
    broken = ["Féin".encode().decode("cp1252"), "lost \ufffd", "it\x92s"]
    rows = [*harmless("train"), *((text, "a") for text in broken), ("naïve café", "a")]
    (finding,) = found(splits_of(rows), "mixed_encodings")
    assert finding.count == 3
    assert finding.examples[0] == "'FÃ©in' was 'Féin'"


def test_empty_texts_that_were_left_out_are_told():
    (finding,) = found(splits_of(harmless("train"), num_empty=2), "empty_texts")
    assert (finding.severity, finding.count) == ("warning", 2)


@pytest.mark.parametrize(("longest", "severity"), [(5, "info"), (6, "warning")])
def test_cut_texts_are_counted_with_the_max_length_that_is_enough(longest, severity):
    # 600 texts: 5 are fewer than 1 %, 6 are not.
    lengths = {side: [10] * 200 for side in SPLITS}
    lengths["train"][:longest] = [99] * longest
    (finding,) = found(splits_of(harmless("train")), "truncation", lengths, max_length=50)
    assert (finding.severity, finding.count) == (severity, longest)
    assert f"{10 if severity == 'info' else 99} is the shortest" in finding.message


@given(st.lists(st.integers(1, 600), min_size=1, max_size=400))
def test_the_shortest_max_length_cuts_fewer_than_one_percent_and_none_shorter_does(lengths):
    enough = shortest_max_length(lengths)
    assert sum(length > enough for length in lengths) < 0.01 * len(lengths)
    assert sum(length > enough - 1 for length in lengths) >= 0.01 * len(lengths)


def test_the_gravest_findings_come_first():
    train = [*harmless("train"), ("train 0", "b")]
    severities = [finding.severity for finding in examine(splits_of(train, test=train), None, 128)]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert severities[0] == "error"
    assert severities[-1] == "info"
