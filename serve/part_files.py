"""The parts of a file of predictions while it is made: a folder beside it, from which a killed command goes on."""

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet as pq

from common.errors import InputError
from common.location import filesystem, join
from common.storage import delete_folder, read_json, write_bytes, write_json
from serve.input_file import COLUMNS

_NAME = re.compile(r"(\d{8})\.parquet")
_WHOLE, _MADE_FROM = "whole", "made_from.json"


class PartFiles:
    """The folder `OUT.parts`. Parts that were made from something else than `made_from` are deleted.

    Raises `InputError` when a folder of that name holds something else than parts.
    """

    def __init__(self, out: str, made_from: dict[str, Any]) -> None:
        self._out = out
        self._folder = f"{out}.parts"
        known = read_json(join(self._folder, _MADE_FROM))
        if known is None and self._names():
            raise InputError(f"{self._folder} is there and no command of ours made it; move it, or give another --out")
        if known != made_from:
            delete_folder(self._folder)
            write_json(join(self._folder, _MADE_FROM), made_from)

    def numbers(self) -> frozenset[int]:
        """The parts that there are."""
        return frozenset(int(match[1]) for name in self._names() if (match := _NAME.fullmatch(name)))

    def write(self, number: int, rows: pa.Table) -> None:
        """Keeps a part, as a whole or not at all."""
        stream = io.BytesIO()
        pq.write_table(rows, stream, compression="zstd")
        write_bytes(self._uri(number), stream.getvalue())

    def join(self, num_parts: int) -> None:
        """Makes the file of predictions of its parts and deletes them. It appears as a whole."""
        files, whole = filesystem(join(self._folder, _WHOLE))
        with files.open_output_stream(whole) as stream:
            _write(self._out, stream, (self._read(number) for number in range(num_parts)))
        files.move(whole, filesystem(self._out)[1])
        delete_folder(self._folder)

    def _names(self) -> list[str]:
        """What is in the folder; hidden files are what a write left that was killed."""
        files, path = filesystem(self._folder)
        found = files.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        return [info.base_name for info in found if not info.base_name.startswith(".")]

    def _read(self, number: int) -> pa.Table:
        files, path = filesystem(self._uri(number))
        return pq.read_table(path, filesystem=files)

    def _uri(self, number: int) -> str:
        return join(self._folder, f"{number:08d}.parquet")


def check_out(out: str, schema: pa.Schema) -> None:
    """Raises `InputError` unless a file of that name can hold columns of that schema and predictions."""
    if not out.endswith((".parquet", ".csv")):
        raise InputError(f"--out {out}: name a .parquet or .csv file to write, for example --out out.parquet")
    if out.endswith(".csv"):
        for column in schema:
            try:
                pyarrow.csv.CSVWriter(io.BytesIO(), pa.schema([column])).close()
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                raise InputError(
                    f"--out {out}: CSV cannot hold the column {column.name!r} of {column.type}; write a .parquet file"
                ) from None


def _write(out: str, stream: Any, parts: Iterator[pa.Table]) -> None:
    first = next(parts)
    if out.endswith(".csv"):
        first = _flat(first)
        with pyarrow.csv.CSVWriter(stream, first.schema) as csv:
            csv.write_table(first)
            for part in parts:
                csv.write_table(_flat(part))
        return
    with pq.ParquetWriter(stream, first.schema) as parquet:
        parquet.write_table(first)
        for part in parts:
            parquet.write_table(part)


def _flat(rows: pa.Table) -> pa.Table:
    """The scores of all labels as JSON, since CSV has no columns in columns."""
    name = COLUMNS[-1]
    texts = [scores and json.dumps(scores, ensure_ascii=False) for scores in rows[name].to_pylist()]
    return rows.set_column(rows.schema.get_field_index(name), name, pa.array(texts, pa.string()))
