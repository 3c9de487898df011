from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from serve.batch_prediction import COLUMNS, BatchClassifier, _read
from tests.tiny_model import build_engine


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_engine(tmp_path_factory.mktemp("engine")))


def test_every_row_gets_its_prediction_beside_its_own_columns(uri: str) -> None:
    table = pa.table({"id": [7, 8, 9], "headline": ["good good", "bad", "good"]})

    predicted = BatchClassifier(uri, "headline")(table)

    assert predicted.column_names == ["id", "headline", *COLUMNS]
    assert predicted.select(["id", "headline"]).equals(table)
    assert predicted["predicted_label"].to_pylist() == ["good", "bad", "good"]
    for score, scores in zip(*(predicted[name].to_pylist() for name in COLUMNS[1:]), strict=True):
        assert set(scores) == {"bad", "good"}
        assert score == max(scores.values())


def test_a_missing_text_is_classified_as_an_empty_one(uri: str) -> None:
    classify = BatchClassifier(uri, "text")

    predicted = classify(pa.table({"text": pa.array(["good", None, "bad"], pa.string())}))
    empty = classify(pa.table({"text": [""]}))

    assert predicted["text"].to_pylist() == ["good", None, "bad"]
    assert [predicted[name][1].as_py() for name in COLUMNS] == [empty[name][0].as_py() for name in COLUMNS]
    assert [predicted["predicted_label"][row].as_py() for row in (0, 2)] == ["good", "bad"]


def test_tables_with_and_without_texts_have_the_same_schema(uri: str) -> None:
    classify = BatchClassifier(uri, "text")
    column = pa.array([None], pa.string())

    assert classify(pa.table({"text": column})).schema == classify(pa.table({"text": ["good"]})).schema


def test_texts_that_are_numbers_are_read_as_written(uri: str) -> None:
    assert BatchClassifier(uri, "text")(pa.table({"text": [1, 2]})).num_rows == 2


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; give a CSV or Parquet file"):
        _read(tmp_path / "nowhere.csv", "text")


@pytest.mark.parametrize(("name", "shown"), [("texts.xlsx", r"\.xlsx"), ("texts", "no suffix")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, shown: str) -> None:
    (tmp_path / name).write_text("text\ngood\n", encoding="utf-8")

    with pytest.raises(DataError, match=rf"{shown} is not known; give a \.csv or \.parquet file"):
        _read(tmp_path / name, "text")


@pytest.mark.parametrize("name", ["texts.parquet", "texts.csv"])
def test_a_file_that_is_not_what_its_suffix_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(DataError, match=f"{name} cannot be read"):
        _read(tmp_path / name, "text")


def write(folder: Path, suffix: str, *columns: str) -> Path:
    """A file with one row, in which every column says `good`."""
    path = folder / f"texts{suffix}"
    if suffix == ".csv":
        path.write_text(f"{','.join(columns)}\n{','.join(['good'] * len(columns))}\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({name: ["good"] for name in columns}), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, "id", "headline")

    with pytest.raises(DataError, match=r"has no column 'text'; it has id, headline\. Name one: --text-column"):
        _read(path, "text")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_a_prediction_would_hide_is_refused(tmp_path: Path, suffix: str, column: str) -> None:
    path = write(tmp_path, suffix, "text", column)

    with pytest.raises(DataError, match=f"already has the column '{column}'; rename it"):
        _read(path, "text")
