"""What became of a data set's rows: labelled anew, moved to another split, removed, added, or only reordered."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

Rows = Mapping[str, Iterable[tuple[str, str]]]
"""By split, each row's text and label."""

MAX_SHOWN_CHARS = 60


@dataclass(frozen=True)
class _Row:
    split: str
    text: str
    label: str

    @property
    def shown(self) -> str:
        text = repr(self.text)
        return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."


def row_changes(before: Rows, now: Rows) -> list[str]:
    """One line for each kind of change in each split, with the first row as an example; equal rows count each."""
    then, today = _counted(before), _counted(now)
    gone, new = then - today, today - then
    relabelled = _matched(gone, new, lambda row: (row.split, row.text))
    moved = _matched(gone, new, lambda row: (row.text, row.label))
    lines = [
        *_lines(relabelled, lambda old, new: f"given another label: {old.shown}: {old.label!r} -> {new.label!r}"),
        *_lines(moved, lambda old, new: f"moved to another split: {old.shown}: now {new.split}"),
        *_lines([(row, row) for row in gone.elements()], lambda old, _: f"removed: {old.shown}"),
        *_lines([(row, row) for row in new.elements()], lambda _, new: f"added: {new.shown}"),
    ]
    return lines or ["the same rows in another order"]


def _counted(rows: Rows) -> Counter[_Row]:
    return Counter(_Row(split, text, label) for split, of_split in rows.items() for text, label in of_split)


def _matched(
    gone: Counter[_Row], new: Counter[_Row], key: Callable[[_Row], tuple[str, str]]
) -> list[tuple[_Row, _Row]]:
    """Takes out of both what is equal by `key`: each row that went with one that came in its place."""
    came = defaultdict(list)
    for row in new.elements():
        came[key(row)].append(row)
    pairs = [(row, came[key(row)].pop(0)) for row in gone.elements() if came[key(row)]]
    gone -= Counter(old for old, _ in pairs)
    new -= Counter(row for _, row in pairs)
    return pairs


def _lines(pairs: Iterable[tuple[_Row, _Row]], describe: Callable[[_Row, _Row], str]) -> list[str]:
    by_split = defaultdict(list)
    for old, new in pairs:
        by_split[old.split].append((old, new))
    return [
        f"{len(of_split):,} {split} {'row' if len(of_split) == 1 else 'rows'} {describe(*of_split[0])}"
        for split, of_split in by_split.items()
    ]
