"""The files of one endpoint's request log: `date=YYYY-MM-DD/part-WRITER-NUMBER.parquet`, by the day of the rows (UTC).

A file appears as a whole or not at all. Small ones are merged into one that is named for the range of numbers that it
replaces, `part-WRITER-FIRST-LAST.parquet`. While both are there, as after a crash, readers take the wider one alone:
no row counts twice.
"""

import io
import logging
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from common.location import filesystem, join
from common.storage import write_bytes
from serve.request_table import SCHEMA

MERGED_PARTS = 60
"""So many small files of one day become one: five minutes of a busy endpoint."""

NUM_READS = 5
"""A reader whose files were merged or deleted under it looks again, so many times in all."""

_FOLDER = re.compile(r"date=(\d{4}-\d{2}-\d{2})")
_NAME = re.compile(r"part-([0-9a-f]{8})-(\d{8})(?:-(\d{8}))?\.parquet")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A file of the log; `first` and `last` are the numbers that its writer gave what is in it."""

    path: str
    day: date
    writer: str
    first: int
    last: int
    written_at: datetime
    num_bytes: int


class RequestFiles:
    """The log in the folder `uri`. One object writes; any number of others may read meanwhile."""

    def __init__(self, uri: str, merged_parts: int = MERGED_PARTS) -> None:
        self.uri = uri
        self._merged_parts = merged_parts
        self._writer = uuid.uuid4().hex[:8]
        self._number = 0
        self._small: dict[str, list[int]] = {}  # by day, the numbers of this writer's files that are not merged yet

    def write(self, day: str, rows: pa.Table) -> int:
        """Adds a file for a day (`YYYY-MM-DD`); returns its bytes. Raises `OSError`, and then nothing was added."""
        content = _parquet(rows)
        write_bytes(self._uri(day, self._number, self._number), content)
        numbers = self._small.setdefault(day, [])
        numbers.append(self._number)
        self._number += 1
        if len(numbers) >= self._merged_parts:
            self._merge(day)
        return len(content)

    def prune(self, now: datetime, *, retain_days: int, retain_bytes: int) -> None:
        """Deletes days that ended more than `retain_days` ago, then the oldest files until the rest is small enough.

        What a killed writer left goes with its day. Raises `OSError`.
        """
        files, root = filesystem(self.uri)
        found = files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        oldest = (now - timedelta(days=retain_days)).date()
        kept = []
        for info in found:
            day = _day(info.path.rpartition("/")[0] if info.is_file else info.path)
            if day is None:
                continue
            if day < oldest and not info.is_file:
                files.delete_dir(info.path)
            elif day >= oldest and info.is_file:
                kept.append((day, info.mtime, info))
        excess = sum(info.size for _, _, info in kept) - retain_bytes
        for _, _, info in sorted(kept, key=lambda entry: entry[:2]):
            if excess <= 0:
                break
            files.delete_file(info.path)
            excess -= info.size

    def read(
        self,
        since: datetime,
        *,
        columns: list[str] | None = None,
        where: pc.Expression | None = None,
        newest: int | None = None,
    ) -> pa.Table:
        """The rows of requests that came since then, oldest first; of those that are `where`, the `newest` only.

        `columns` must name `time`. Empty where there is no log. Raises `OSError`.
        """
        wanted = pc.field("time") >= pa.scalar(since, SCHEMA.field("time").type)
        wanted = wanted if where is None else wanted & where
        damaged: set[str] = set()
        for attempt in range(NUM_READS):
            paths = [path for path in self._paths(since) if path not in damaged]
            try:
                return self._rows(paths, wanted, columns, newest)
            except FileNotFoundError:
                if attempt + 1 == NUM_READS:
                    raise
            except pa.ArrowInvalid:
                damaged = self._damaged(paths)
                if not damaged:
                    raise
        raise AssertionError("unreachable")

    def exists(self) -> bool:
        """Whether anything was ever logged here and kept. Raises `OSError`."""
        files, root = filesystem(self.uri)
        return any(_part(info) for info in files.get_file_info(_everything(root)))

    def _paths(self, since: datetime) -> list[str]:
        files, root = filesystem(self.uri)
        parts = [part for info in files.get_file_info(_everything(root)) if (part := _part(info))]
        # A row is written after its request came: an older file or day holds none that is wanted.
        begin = since - _CLOCKS_DIFFER
        return [part.path for part in whole(parts) if part.day >= since.date() and part.written_at >= begin]

    def _rows(self, paths: list[str], wanted: pc.Expression, columns: list[str] | None, newest: int | None) -> pa.Table:
        dataset = ds.dataset(paths, schema=SCHEMA, format="parquet", filesystem=filesystem(self.uri)[0])
        if newest is not None:
            wanted = wanted & _newest(dataset.to_table(columns=["time"], filter=wanted)["time"], newest)
        found = dataset.to_table(columns=columns, filter=wanted).sort_by("time")
        return found if newest is None else found.slice(max(0, found.num_rows - newest))

    def _damaged(self, paths: list[str]) -> set[str]:
        """Files without their content, as a machine that lost its power may leave them."""
        files, _ = filesystem(self.uri)
        damaged = set()
        for path in paths:
            try:
                pq.read_metadata(path, filesystem=files)
            except pa.ArrowInvalid as error:
                logger.warning("%s is damaged and left out: %s", path, error)
                damaged.add(path)
        return damaged

    def _merge(self, day: str) -> None:
        """A merge that fails leaves what there is, for the next time."""
        numbers = self._small[day]
        files, root = filesystem(self.uri)
        try:
            paths = [f"{root}/date={day}/{_name(self._writer, number, number)}" for number in numbers]
            present = [info.path for info in files.get_file_info(paths) if info.is_file]
            if present:
                merged = pa.concat_tables(pq.read_table(path, filesystem=files, schema=SCHEMA) for path in present)
                write_bytes(self._uri(day, numbers[0], numbers[-1]), _parquet(merged))
            del self._small[day]
            for path in present:
                files.delete_file(path)
        except (OSError, pa.ArrowInvalid) as error:
            logger.warning("files of %s stay small: %s", self.uri, error)

    def _uri(self, day: str, first: int, last: int) -> str:
        return join(self.uri, f"date={day}", _name(self._writer, first, last))


_CLOCKS_DIFFER = timedelta(minutes=10)
"""A store's clock and a gateway's."""


def whole(parts: Iterable[Part]) -> Iterator[Part]:
    """Of the parts, those that no other of the same day and writer holds as well."""
    widest: dict[tuple[date, str], int] = {}
    for part in sorted(parts, key=lambda part: (part.day, part.writer, part.first, -part.last)):
        key = (part.day, part.writer)
        if part.last > widest.get(key, -1):
            widest[key] = part.last
            yield part


def _newest(times: pa.ChunkedArray, number: int) -> pc.Expression:
    """What holds of the newest rows; also of older ones that are of the same moment as the last of them."""
    if len(times) <= number:
        return pc.scalar(True)
    order = pc.sort_indices(times, sort_keys=[("", "descending")])
    return pc.field("time") >= times[order[number - 1].as_py()]


def _everything(root: str) -> fs.FileSelector:
    return fs.FileSelector(root, recursive=True, allow_not_found=True)


def _part(info: fs.FileInfo) -> Part | None:
    folder, _, name = info.path.rpartition("/")
    day, named = _day(folder), _NAME.fullmatch(name)
    if not info.is_file or day is None or named is None:
        return None
    first = int(named[2])
    return Part(info.path, day, named[1], first, int(named[3] or first), info.mtime, info.size)


def _day(folder: str) -> date | None:
    found = _FOLDER.fullmatch(folder.rpartition("/")[2])
    return date.fromisoformat(found[1]) if found else None


def _name(writer: str, first: int, last: int) -> str:
    return f"part-{writer}-{first:08d}.parquet" if first == last else f"part-{writer}-{first:08d}-{last:08d}.parquet"


def _parquet(rows: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(rows, stream, compression="zstd")
    return stream.getvalue()
