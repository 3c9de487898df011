"""Predictions for a whole file, with Ray Data: one output row for each input row, in their order.

What Ray Data moves are numbered parts of the file, a part a row. So it does not matter in which order actors finish,
and a command that was killed needs only the numbers that are missing.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from common.classifier import Classifier
from common.errors import DataError
from serve.engine import fetch
from serve.input_file import COLUMNS, PART_ROWS, InputFile
from serve.part_files import PartFiles, check_out

BLOCK_BYTES = 64 * 1024
"""Ray Data gathers what is smaller than this before it passes it on: a part is to go on by itself."""

OnRows = Callable[[int, int], None]
"""Is told how many rows have predictions, and how many there are."""


class BatchClassifier:
    """A Ray Data actor that adds the predictions to parts."""

    def __init__(self, uri: str, text_column: str) -> None:
        self._classifier = Classifier.load(fetch(uri))
        self._text_column = text_column
        self._scores = pa.struct([(label, pa.float64()) for label in self._classifier.labels])

    def __call__(self, parts: pa.Table) -> pa.Table:
        """The parts (`number`, `rows`) with their predictions."""
        rows = [_packed(self.predict(_unpacked(part))) for part in parts["rows"]]
        return pa.table({"number": parts["number"], "rows": pa.array(rows, pa.large_binary())})

    def predict(self, table: pa.Table) -> pa.Table:
        """The table with three more columns. A missing text (null) gets nulls, an empty one what the model says."""
        texts = table[self._text_column].cast(pa.string()).to_pylist()
        answers = iter(self._classifier.classify([text for text in texts if text is not None]))
        found = [None if text is None else next(answers) for text in texts]
        added = (
            pa.array([prediction and prediction.label for prediction in found], pa.string()),
            pa.array([prediction and prediction.score for prediction in found], pa.float64()),
            pa.array([prediction and prediction.scores for prediction in found], self._scores),
        )
        for name, column in zip(COLUMNS, added, strict=True):
            table = table.append_column(name, column)
        return table


class MissingParts(Datasource):
    """The parts of a file but for those that are `there`; one task reads it, since a CSV file has no places in it."""

    def __init__(self, source: InputFile, there: frozenset[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source = source
        self._there = there

    @property
    def supports_distributed_reads(self) -> bool:
        """No: the file may be on this machine alone, so the task runs here."""
        return False

    def estimate_inmemory_data_size(self) -> int | None:
        """Nobody knows."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """The one task."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        source, there = self._source, self._there
        return [ReadTask(lambda: _read(source, there), metadata)]


def _read(source: InputFile, there: frozenset[int]) -> Iterator[pa.Table]:
    for number, rows in source.parts():
        if number not in there:
            yield pa.table({"number": [number], "rows": pa.array([_packed(rows)], pa.large_binary())})


def predict_file(source: str, out: str, *, uri: str, text_column: str, num_actors: int, on_rows: OnRows) -> int:
    """Writes `source`'s rows with their predictions to `out`, and returns how many there are.

    Both are paths or URLs, of CSV or Parquet. `uri` is the model's `onnx` folder. `out` appears when it is complete;
    until then `out.parts` holds what there is, and the same call goes on from that. Ray must be initialised.

    Raises:
        DataError: when the file cannot be read, is empty, or lacks the text column.
        InputError: when `out` is neither CSV nor Parquet or cannot hold the file's columns, or `out.parts` is not ours.
    """
    file = InputFile.open(source, text_column)
    check_out(out, file.schema)
    num_rows = file.num_rows()
    if not num_rows:
        raise DataError(f"{source} holds no rows; nothing was written")
    num_parts = -(-num_rows // PART_ROWS)
    parts = PartFiles(
        out,
        {
            "source": source,
            "fingerprint": file.fingerprint,
            "text_column": text_column,
            "model": uri,
            "rows": num_rows,
            "part_rows": PART_ROWS,
        },
    )
    there = parts.numbers()
    num_done = sum(_rows_in(number, num_rows) for number in there)
    on_rows(num_done, num_rows)
    if len(there) < num_parts:
        for number, rows in _predicted(file, there, uri, min(num_actors, num_parts - len(there))):
            parts.write(number, rows)
            num_done += rows.num_rows
            on_rows(num_done, num_rows)
    parts.join(num_parts)
    return num_rows


def _predicted(file: InputFile, there: frozenset[int], uri: str, num_actors: int) -> Iterator[tuple[int, pa.Table]]:
    """The parts that are missing, in the order in which they are ready."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context), _quiet_console():
        dataset = ray.data.read_datasource(MissingParts(file, there), num_cpus=0).map_batches(
            BatchClassifier,
            fn_constructor_kwargs={"uri": uri, "text_column": file.text_column},
            batch_format="pyarrow",
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
            num_cpus=1,
        )
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for number, rows in zip(table["number"].to_pylist(), table["rows"], strict=True):
                yield number, _unpacked(rows)


@contextmanager
def _quiet_console() -> Iterator[None]:
    """`on_rows` tells the progress; what Ray Data says of it goes to its own log file alone."""
    handlers = [each for each in logging.getLogger("ray.data").handlers if isinstance(each, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


def _rows_in(number: int, num_rows: int) -> int:
    return min(PART_ROWS, num_rows - number * PART_ROWS)


def _packed(rows: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(stream.getvalue())


def _unpacked(rows: pa.Scalar) -> pa.Table:
    return pa.ipc.open_stream(rows.as_buffer()).read_all()
