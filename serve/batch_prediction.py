"""Predictions for a whole file, with Ray Data: one output row for each input row, in their order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import ray.data

from common.classifier import Classifier
from common.errors import DataError
from serve.engine import fetch

BATCH_SIZE = 1024
"""Texts that an actor takes at a time; it sorts them by length into smaller batches for the model."""

COLUMNS = ("predicted_label", "predicted_score", "predicted_scores")


class BatchClassifier:
    """A Ray Data actor that adds the predictions to a table."""

    def __init__(self, uri: str, text_column: str) -> None:
        self._classifier = Classifier.load(fetch(uri))
        self._text_column = text_column
        self._scores = pa.struct([(label, pa.float64()) for label in self._classifier.labels])

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with three more columns; a missing text is classified as an empty one."""
        texts = table[self._text_column].cast(pa.string()).fill_null("").to_pylist()
        found = self._classifier.classify(texts)
        added = (
            pa.array([prediction.label for prediction in found], pa.string()),
            pa.array([prediction.score for prediction in found], pa.float64()),
            pa.array([prediction.scores for prediction in found], self._scores),
        )
        for name, column in zip(COLUMNS, added, strict=True):
            table = table.append_column(name, column)
        return table


def predict_file(
    source: Path, out: Path, *, uri: str, text_column: str, num_actors: int, on_rows: Callable[[int], None]
) -> int:
    """Writes `source`'s rows with their predictions to the Parquet file `out`; returns how many there are.

    `uri` is the model's `onnx` folder. `out` appears when it is complete. `on_rows` is told the rows written so far.
    Ray must be initialised.

    Raises:
        DataError: when the file cannot be read as CSV or Parquet, or lacks the text column.
    """
    dataset = _read(source, text_column)
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    predicted = dataset.map_batches(
        BatchClassifier,
        fn_constructor_kwargs={"uri": uri, "text_column": text_column},
        batch_format="pyarrow",
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=num_actors),
        num_cpus=1,
    )
    partial = out.with_name(f".{out.name}.partial")
    writer: pq.ParquetWriter | None = None
    num_rows = 0
    try:
        for table in predicted.iter_batches(batch_size=None, batch_format="pyarrow"):
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table.cast(writer.schema))
            num_rows += table.num_rows
            on_rows(num_rows)
        if writer is None:
            raise DataError(f"{source} holds no rows; nothing was written")
        writer.close()
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return num_rows


def _read(source: Path, text_column: str) -> Any:
    if not source.is_file():
        raise DataError(f"{source} does not exist; give a CSV or Parquet file")
    try:
        if source.suffix == ".parquet":
            names: Sequence[str] = pq.read_schema(source).names
            reader: Callable[..., Any] = ray.data.read_parquet
            options: dict[str, Any] = {}
        elif source.suffix == ".csv":
            parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
            with pyarrow.csv.open_csv(source, parse_options=parsing) as stream:
                names = stream.schema.names
            reader = ray.data.read_csv
            types = pyarrow.csv.ConvertOptions(column_types={text_column: pa.string()})
            options = {"parse_options": parsing, "convert_options": types}
        else:
            raise DataError(f"{source}: {source.suffix or 'no suffix'} is not known; give a .csv or .parquet file")
    except pa.ArrowInvalid as error:
        raise DataError(f"{source} cannot be read: {error}") from None
    if text_column not in names:
        raise DataError(f"{source} has no column {text_column!r}; it has {', '.join(names)}. Name one: --text-column")
    clash = [name for name in COLUMNS if name in names]
    if clash:
        raise DataError(f"{source} already has the column {clash[0]!r}; rename it")
    return reader(str(source), **options)
