"""Rows that a recipe pins by their digest (`data.sha256`), held against what its source gives now."""

from collections import Counter
from collections.abc import Iterator

from common.dataset import SPLITS, Splits, load_splits
from common.errors import DataError
from common.location import join
from common.recipe import Data
from common.row_changes import Rows, row_changes
from common.storage import folders_in
from common.tokenised import PreparedData, read_split


def load_pinned_splits(data: Data, storage: str) -> Splits:
    """`common.dataset.load_splits`, refused when these are not the rows that `data.sha256` pins.

    Raises:
        DataError: as `load_splits` does; and for other rows, with what changed where `storage` holds the pinned ones.
    """
    splits = load_splits(data)
    if data.sha256 is None or splits.digest == data.sha256:
        return splits
    lines = "\n".join(f"  {line}" for line in changes_since(data.sha256, splits, storage))
    raise DataError(
        f"{data.source} does not hold the rows that data.sha256 pins ({data.sha256[:16]}...):\n{lines}\n"
        f"Bring those rows back, or accept these: data.sha256={splits.digest}"
    )


def changes_since(digest: str, splits: Splits, storage: str) -> list[str]:
    """What changed since the rows of that digest, in lines; where `storage` does not hold them, what there is now."""
    earlier = prepared_rows(digest, storage)
    if earlier is not None:
        return row_changes(earlier, _rows_of(splits))
    counts = (
        f"{splits[split].num_rows:,} {split} rows now: "
        + ", ".join(
            f"{label} {count:,}" for label, count in sorted(Counter(splits[split]["label"].to_pylist()).items())
        )
        for split in SPLITS
    )
    return [*counts, f"{storage} has never held those rows, so what changed cannot be said"]


def prepared_rows(digest: str, storage: str) -> Rows | None:
    """The rows of that digest (`Splits.digest`), as an earlier command left them in `storage`; None if none did."""
    prepared = next((found for found in _prepared(storage) if found.data_digest == digest), None)
    if prepared is None:
        return None
    tables = {split: read_split(prepared, split) for split in SPLITS}
    return {
        split: [
            (text, prepared.labels[place])
            for text, place in zip(table["text"].to_pylist(), table["label"].to_pylist(), strict=True)
        ]
        for split, table in tables.items()
    }


def _prepared(storage: str) -> Iterator[PreparedData]:
    folder = join(storage, "data")
    for name in folders_in(folder):
        try:
            yield PreparedData.load(join(folder, name))
        except DataError:  # it is being written
            continue


def _rows_of(splits: Splits) -> Rows:
    return {
        split: list(zip(splits[split]["text"].to_pylist(), splits[split]["label"].to_pylist(), strict=True))
        for split in SPLITS
    }
