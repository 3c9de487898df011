"""One file of labelled texts: CSV, Parquet or JSON Lines bytes become a table of `text` and `label` strings."""

import contextlib
import csv
import difflib
import io
import json
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from common.errors import DataError
from common.recipe import Data
from common.text_encoding import decode

SCHEMA = pa.schema([("text", pa.string()), ("label", pa.string())])
"""What every reader returns. A missing text or label is null; nothing else is taken for a missing value."""

_NO_HEADER = ", or data.column_names when the file has no header line"

Reader = Callable[[bytes, str, Data], pa.Table]


def read_csv(content: bytes, name: str, data: Data) -> pa.Table:
    """Rows of a CSV file (RFC 4180: quotes are doubled, line breaks may stand inside quotes).

    Every field is a string as written: `NA` is a text, `0` a label. Raises DataError for a missing column, rows with
    too many or too few fields, an unclosed quote, and a header line where `data.column_names` says there is none.
    """
    text = decode(content, name, data.encoding)
    if not text.strip():
        return SCHEMA.empty_table()
    header = next(row for row in csv.reader(io.StringIO(text)) if row)
    check_columns(data.column_names or header, name, data, "" if data.column_names else _NO_HEADER)
    ragged: list[pyarrow.csv.InvalidRow] = []

    def note(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    encoded = text.encode() + b"\n"
    table = pyarrow.csv.read_csv(
        pa.BufferReader(encoded),
        # One block and one thread: a row may be as long as the file, and rows are counted only so.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, block_size=min(len(encoded) + 1, 2**31 - 1), column_names=data.column_names
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=[data.text_column, data.label_column],
            column_types={data.text_column: pa.string(), data.label_column: pa.string()},
        ),
    )
    if ragged:
        raise DataError(_ragged_message(ragged, name))
    if data.column_names and header == list(data.column_names):
        raise DataError(f"{name} begins with a header line; remove data.column_names, which is for files without one")
    return table.rename_columns(SCHEMA.names)


def read_json_lines(content: bytes, name: str, data: Data) -> pa.Table:
    """Rows of a JSON Lines file: one object a line. Raises DataError for lines that are not, or lack a column."""
    texts: list[str | None] = []
    labels: list[str | None] = []
    for number, line in enumerate(decode(content, name, data.encoding).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name} line {number} is not JSON ({error.msg}): {_short(line)}; write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{name} line {number} is not an object: {_short(line)}; write one object a line")
        check_columns(tuple(row), f"{name} line {number}", data)
        texts.append(_json_text(row[data.text_column], f"{name} line {number}", data))
        labels.append(_json_label(row[data.label_column], f"{name} line {number}", data))
    try:
        return pa.table([texts, labels], schema=SCHEMA)
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} holds half a character: {_short(error.object)}; write emoji as UTF-8 or pairs"
        ) from error


def read_parquet(content: bytes, name: str, data: Data) -> pa.Table:
    """Rows of a Parquet file. Raises DataError when it is not one, or lacks a column."""
    try:
        file = pyarrow.parquet.ParquetFile(pa.BufferReader(content))
        check_columns(tuple(file.schema_arrow.names), name, data)
        table = file.read(columns=[data.text_column, data.label_column])
    except pa.ArrowInvalid as error:
        raise DataError(f"{name} is not a Parquet file that can be read: {error}") from error
    return as_strings(table.select([data.text_column, data.label_column]), name, data)


READERS: dict[str, Reader] = {
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
}
"""From a file name's ending to what reads it."""


def as_strings(table: pa.Table, name: str, data: Data) -> pa.Table:
    """A typed table's two columns (text, label) as strings; whole numbers are `0`, never `0.0`.

    Raises DataError for columns of types that are no text or no label, such as lists.
    """
    text, label = (_plain(table.column(index)) for index in (0, 1))
    if not (pa.types.is_string(text.type) or pa.types.is_large_string(text.type) or pa.types.is_null(text.type)):
        raise DataError(f"{name}: column {data.text_column!r} holds {text.type}, not text; set data.text_column")
    if pa.types.is_nested(label.type) or pa.types.is_binary(label.type):
        raise DataError(f"{name}: column {data.label_column!r} holds {label.type}, not one label a row")
    if pa.types.is_floating(label.type):
        with contextlib.suppress(pa.ArrowInvalid):  # not whole numbers: written as they are
            label = label.cast(pa.int64())
    return pa.table([text.cast(pa.string()), label.cast(pa.string())], schema=SCHEMA)


def check_columns(there: Sequence[str], name: str, data: Data, hint: str = "") -> None:
    """Raises DataError, naming the columns there are, when `data`'s text or label column is not among them."""
    for field, wanted in (("text_column", data.text_column), ("label_column", data.label_column)):
        if there.count(wanted) > 1:
            raise DataError(f"{name} has {there.count(wanted)} columns called {wanted!r}; rename all but one")
        if wanted not in there:
            close = difflib.get_close_matches(wanted, there, n=1)
            way_out = f"did you mean {close[0]!r}? Set data.{field}" if close else f"set data.{field} to one of them"
            columns = ", ".join(_short(column) for column in there)
            raise DataError(f"{name} has no column {wanted!r}; it has {columns}: {way_out}{hint}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _ragged_message(ragged: Sequence[pyarrow.csv.InvalidRow], name: str) -> str:
    first = ragged[0]
    count = "1 row" if len(ragged) == 1 else f"{len(ragged)} rows"
    return (
        f"{name}: {count} with the wrong number of fields; first, row {first.number} has {first.actual_columns} where "
        f"{first.expected_columns} are expected: {_short(first.text)}; put fields that hold commas, quotes or line "
        'breaks in double quotes, and double the quotes inside ("")'
    )


def _json_text(value: object, place: str, data: Data) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"{place}: {data.text_column!r} is {_short(json.dumps(value))}, not text; set data.text_column")


def _json_label(value: object, place: str, data: Data) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() else str(value)
    raise DataError(f"{place}: {data.label_column!r} is {_short(json.dumps(value))}, not one label")


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
