"""Labelled rows in three splits, divided by what each text is and by nothing else.

A text's side is a function of its hash and the seed. New rows therefore never move old ones to another side, and equal
texts (compared character by character, no case folding or trimming) never part. The price is that shares are met only
on average and classes are not stratified; `load_splits` refuses the rare division that a model could not learn from.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import DataError
from common.recipe import Data, Split
from common.sources import read_source

SPLITS = ("train", "validation", "test")

_SEEDS_TO_TRY = 20


@dataclass(frozen=True)
class Splits:
    """The rows of the three splits, in memory."""

    train: pa.Table
    """Columns `text` and `label`, both string, none null; so are the next two."""
    validation: pa.Table
    """Selects between trials."""
    test: pa.Table
    """Scores the winner once."""
    labels: tuple[str, ...]
    """The training rows' labels, sorted; a label's place is its number in the model."""
    digest: str
    """sha256 (hex) over exactly these rows, in order, with the split each is in."""
    source: str
    """What `data.source` named."""
    num_empty: int = 0
    """Rows left out because their text was empty or only blanks."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """By source, its version in DVC or on the Hub, where it has one."""

    def __getitem__(self, split: str) -> pa.Table:
        """The rows of `train`, `validation` or `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]


def load_splits(data: Data) -> Splits:
    """Reads, renames and divides the rows that a recipe names.

    Ready-made validation and test files are taken as they are; what they do not provide is divided off `data.source`.
    Rows with an empty text are left out and counted.

    Raises:
        DataError: when a source cannot be read, a row has no label, there are no rows, fewer than two classes, a class
            with one row, a label that the training rows lack, or a split that came out unusable.
    """
    if data.text_column == data.label_column:
        raise DataError(f"data.text_column and data.label_column are both {data.text_column!r}; they must differ")
    versions: dict[str, str] = {}
    source, num_empty = _read(data, data.source, versions)
    _check_classes(source, data.source)
    ready: dict[str, pa.Table] = {}
    for split, ready_source in (("validation", data.validation_source), ("test", data.test_source)):
        if ready_source is not None:
            ready[split], empty = _read(data, ready_source, versions)
            num_empty += empty
    sides = _divide(source, data, ready)
    rows = {split: ready[split] if split in ready else source.filter(sides == split) for split in SPLITS}
    labels = tuple(sorted(set(rows["train"].column("label").to_pylist())))
    for split in ready:
        _check_known_labels(rows[split], split, labels)
    digest = digest_of(rows)
    return Splits(**rows, labels=labels, digest=digest, source=data.source, num_empty=num_empty, versions=versions)


def text_hash64(texts: Sequence[str], seed: int | None = None) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each text: shape (len(texts),), the same on every machine and in every version.

    BLAKE2b (RFC 7693), keyed by `seed` when one is given. Texts are equal exactly when all their characters are.
    """
    key = b"" if seed is None else str(seed).encode()
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def digest_of(rows: dict[str, pa.Table]) -> str:
    """sha256 (hex) over the names of the splits, and the texts and labels in each, in order."""
    digest = hashlib.sha256()
    for split, table in rows.items():
        digest.update(f"{split} {table.num_rows}\n".encode())
        for column in ("text", "label"):
            values = table.column(column)
            # Lengths first: otherwise ("ab", "c") and ("a", "bc") would be the same rows.
            digest.update(pc.binary_length(values).to_numpy().astype("<i8").tobytes())
            digest.update("".join(values.to_pylist()).encode())
    return digest.hexdigest()


def _read(data: Data, source: str, versions: dict[str, str]) -> tuple[pa.Table, int]:
    """The rows of one source with final label names, and how many were left out for an empty text; adds its version."""
    found = read_source(data, source)
    table = found.table
    if found.version is not None:
        versions[source] = found.version
    if table.num_rows == 0:
        raise DataError(f"{source} holds no rows; a data set needs at least two texts of each of two labels")
    labels = table.column("label")
    unlabelled = pc.indices_nonzero(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(labels), ""), True))
    if len(unlabelled):
        raise DataError(
            f"{source}: {_count(len(unlabelled), 'row')} without a label, the first is record "
            f"{unlabelled[0].as_py() + 1}; label or delete them"
        )
    if data.label_names is not None:
        table = table.set_column(1, "label", _named(labels, data.label_names, source))
    has_text = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(table.column("text")), ""), False)
    kept = table.filter(has_text)
    if kept.num_rows == 0:
        raise DataError(f"{source}: all {table.num_rows} rows have an empty {data.text_column!r}; set data.text_column")
    return kept, table.num_rows - kept.num_rows


def _named(labels: pa.ChunkedArray, names: dict[str, str], source: str) -> pa.Array:
    """The model's name for each label."""
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        olds = ", ".join(repr(old) for old, name in names.items() if name == twice[0])
        raise DataError(f"data.label_names gives {olds} the one name {twice[0]!r}; give each label its own")
    missing = sorted(set(labels.to_pylist()) - names.keys())
    if missing:
        raise DataError(
            f"{source} holds {_count(len(missing), 'label')} that data.label_names does not name: {_listed(missing)}; "
            f"it names {_listed(sorted(names))}"
        )
    return pa.array([names[label] for label in labels.to_pylist()], pa.string())


def _divide(source: pa.Table, data: Data, ready: dict[str, pa.Table]) -> npt.NDArray[np.str_]:
    """The side of each row of `source`. Raises DataError when a side or a class's training rows came out empty."""
    texts = source.column("text").to_pylist()
    labels = np.array(source.column("label").to_pylist())
    sides = _sides(texts, data.split, set(ready))
    problem = _unusable(sides, labels, set(ready))
    if problem is None:
        return sides
    seeds = (data.split.model_copy(update={"seed": seed}) for seed in range(_SEEDS_TO_TRY))
    good = next(
        (split.seed for split in seeds if not _unusable(_sides(texts, split, set(ready)), labels, set(ready))), None
    )
    way_out = (
        f"add rows, or set data.split.seed={good}, which divides them well"
        if good is not None
        else "add rows, or give ready-made files as data.validation_source and data.test_source"
    )
    raise DataError(f"{data.source}: with data.split.seed={data.split.seed}, {problem}; {way_out}")


def _sides(texts: Sequence[str], split: Split, ready: set[str]) -> npt.NDArray[np.str_]:
    """Test takes the lowest hashes and validation the next, so that a ready-made validation file moves no test row."""
    test = 0.0 if "test" in ready else split.test
    validation = 0.0 if "validation" in ready else split.validation
    position = text_hash64(texts, split.seed) / 2.0**64  # (N,) in [0, 1]
    return np.where(position < test, "test", np.where(position < test + validation, "validation", "train"))


def _unusable(sides: npt.NDArray[np.str_], labels: npt.NDArray[np.str_], ready: set[str]) -> str | None:
    """Why a division cannot be used, or None when it can."""
    lost = sorted(set(labels) - set(labels[sides == "train"]))
    if lost:
        rows = _count(int((labels == lost[0]).sum()), "row")
        return f"none of the {rows} labelled {str(lost[0])!r} fell on the training side"
    empty = [split for split in SPLITS if split not in ready and not (sides == split).any()]
    return f"none of the {_count(len(sides), 'row')} fell on the {empty[0]} side" if empty else None


def _check_classes(source: pa.Table, name: str) -> None:
    counts = Counter(source.column("label").to_pylist())
    if len(counts) < 2:
        raise DataError(f"{name}: all {source.num_rows} rows have the label {next(iter(counts))!r}; two are needed")
    single = sorted(label for label, count in counts.items() if count == 1)
    if single:
        raise DataError(
            f"{name}: {_count(len(single), 'label')} with only one row: {_listed(single)}; a class needs two rows or "
            "more, to learn from and to be tested on: add rows, or remove these (is data.label_column right?)"
        )


def _check_known_labels(rows: pa.Table, split: str, labels: Sequence[str]) -> None:
    unknown = sorted(set(rows.column("label").to_pylist()) - set(labels))
    if unknown:
        raise DataError(
            f"the {split} rows hold {_count(len(unknown), 'label')} that the training rows lack: {_listed(unknown)}; "
            f"those have {_listed(labels)}: rename with data.label_names, or add training rows"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _listed(values: Sequence[str]) -> str:
    shown = ", ".join(repr(value) for value in values[:5])
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
