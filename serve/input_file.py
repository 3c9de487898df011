"""The file that predictions are wanted for: CSV or Parquet, on this machine or in an object store, read in parts.

A part is a fixed number of rows, so that the same file always has the same parts, whoever reads it and how often.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from common.errors import DataError
from common.location import filesystem

PART_ROWS = 2048
"""Rows of a part: some seconds of work, which is what a killed command loses."""

COLUMNS = ("predicted_label", "predicted_score", "predicted_scores")
"""What a prediction adds to a row."""

CSV_BLOCK_BYTES = 16 * 1024 * 1024
"""Arrow reads CSV in blocks of this, and a row must fit into one."""


@dataclass(frozen=True)
class InputFile:
    """A file that was found to have the column of texts."""

    location: str
    schema: pa.Schema
    text_column: str
    fingerprint: str
    """Changes when the file does."""

    @classmethod
    def open(cls, location: str, text_column: str) -> "InputFile":
        """Looks at the file. Raises `DataError` when it cannot be read, or has no column of texts."""
        ending = location.rpartition("/")[2].rpartition(".")[2] if "." in location.rpartition("/")[2] else ""
        if ending not in ("csv", "parquet"):
            shown = f".{ending}" if ending else "no suffix"
            raise DataError(f"{location}: {shown} is not known; give a .csv or .parquet file")
        files, path = filesystem(location)
        try:
            found = files.get_file_info(path)
            if not found.is_file:
                raise DataError(f"{location} does not exist; give a CSV or Parquet file")
            with _opened(location) as reader:
                schema = reader.schema
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{location} cannot be read: {error}") from None
        _check_columns(location, schema, text_column)
        return cls(location, schema, text_column, f"{found.size} bytes of {found.mtime_ns}")

    def num_rows(self) -> int:
        """Counts the rows; a CSV file is read to its end. Raises `DataError` for rows that are not as the others."""
        try:
            if self.location.endswith(".parquet"):
                with _opened(self.location) as reader:
                    return int(reader.num_rows)
            return sum(part.num_rows for _, part in self.parts())
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.location} cannot be read: {error}") from None

    def parts(self) -> Iterator[tuple[int, pa.Table]]:
        """Every part with its number, from 0; all but the last have `PART_ROWS` rows."""
        with _opened(self.location) as reader:
            yield from enumerate(_of_equal_size(reader, self.schema))


class _Csv:
    """Every field is a string as written: `NA` is a text, `007` is not 7."""

    def __init__(self, location: str) -> None:
        files, path = filesystem(location)
        with files.open_input_stream(path) as stream:
            self.schema = pa.schema([(name, pa.string()) for name in _csv_reader(stream).schema.names])
        self._stream = files.open_input_stream(path)

    def __enter__(self) -> "_Csv":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(_csv_reader(self._stream, self.schema))


def _csv_reader(stream: Any, schema: pa.Schema | None = None) -> Any:
    return pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=schema),
    )


class _Parquet:
    def __init__(self, location: str) -> None:
        files, path = filesystem(location)
        self._source = files.open_input_file(path)
        self._file = pq.ParquetFile(self._source)
        self.schema = self._file.schema_arrow
        self.num_rows = self._file.metadata.num_rows

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self._file.iter_batches(batch_size=PART_ROWS))


def _opened(location: str) -> Any:
    return _Parquet(location) if location.endswith(".parquet") else _Csv(location)


def _of_equal_size(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    waiting = schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], schema)])
        while waiting.num_rows >= PART_ROWS:
            yield waiting.slice(0, PART_ROWS).combine_chunks()
            waiting = waiting.slice(PART_ROWS)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _check_columns(location: str, schema: pa.Schema, text_column: str) -> None:
    names = schema.names
    if text_column not in names:
        raise DataError(f"{location} has no column {text_column!r}; it has {', '.join(names)}. Name one: --text-column")
    for name in (text_column, *COLUMNS):
        if names.count(name) > (name == text_column):
            raise DataError(f"{location} already has the column {name!r}; rename it")
    kind = schema.field(text_column).type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        raise DataError(f"{location}: column {text_column!r} holds {kind}, not text; name another: --text-column")
