"""What is said of rows that changed."""

import pytest

from common.row_changes import row_changes

ROWS = {"train": [("a", "ham"), ("b", "spam"), ("b", "spam")], "test": [("c", "ham")]}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (
            {"train": [("a", "spam"), ("b", "spam"), ("b", "spam")], "test": [("c", "ham")]},
            ["1 train row given another label: 'a': 'ham' -> 'spam'"],
        ),
        ({"train": [("a", "ham"), ("b", "spam")], "test": [("c", "ham")]}, ["1 train row removed: 'b'"]),
        (
            {"train": [*ROWS["train"], ("d", "ham"), ("d", "ham")], "test": [("c", "ham")]},
            ["2 train rows added: 'd'"],
        ),
        (
            {"train": [("b", "spam"), ("b", "spam")], "test": [("c", "ham"), ("a", "ham")]},
            ["1 train row moved to another split: 'a': now test"],
        ),
        (
            {"train": [("b", "spam"), ("a", "ham"), ("b", "spam")], "test": [("c", "ham")]},
            ["the same rows in another order"],
        ),
    ],
)
def test_each_change_is_told_as_what_it_is(now, said) -> None:
    assert row_changes(ROWS, now) == said


def test_changes_of_all_kinds_are_told_side_by_side_and_long_texts_are_cut() -> None:
    now = {"train": [("a", "spam"), ("b", "spam"), ("x" * 100, "ham")], "test": []}
    assert row_changes(ROWS, now) == [
        "1 train row given another label: 'a': 'ham' -> 'spam'",
        "1 train row removed: 'b'",
        "1 test row removed: 'c'",
        f"1 train row added: '{'x' * 56}...",
    ]
