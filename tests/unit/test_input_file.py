"""What a file for `predict --file` is read as, and what is refused before anything is classified."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from serve import input_file
from serve.input_file import COLUMNS, InputFile


def rows(path: Path) -> list[dict[str, object]]:
    found = InputFile.open(str(path), "text")
    return [row for _, part in found.parts() for row in part.to_pylist()]


@pytest.mark.parametrize("row_group_size", [1, 3, 100])
def test_parts_are_of_equal_size_and_numbered_whatever_the_files_own_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_size: int
) -> None:
    monkeypatch.setattr(input_file, "PART_ROWS", 4)
    table = pa.table({"text": [str(number) for number in range(10)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=row_group_size)

    found = InputFile.open(str(tmp_path / "in.parquet"), "text")

    assert found.num_rows() == 10
    assert [(number, part["text"].to_pylist()) for number, part in found.parts()] == [
        (0, ["0", "1", "2", "3"]),
        (1, ["4", "5", "6", "7"]),
        (2, ["8", "9"]),
    ]


def test_fields_of_csv_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('id,text\n007,NA\n1.50,""\n,"a\nb, ""c"""\n', encoding="utf-8")

    assert rows(path) == [{"id": "007", "text": "NA"}, {"id": "1.50", "text": ""}, {"id": "", "text": 'a\nb, "c"'}]
    assert InputFile.open(str(path), "text").num_rows() == 3


def test_fields_change_no_type_in_a_later_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_file, "CSV_BLOCK_BYTES", 64)
    path = tmp_path / "in.csv"
    path.write_text("id,text\n" + "1,good\n" * 50 + "x,good\n", encoding="utf-8")

    assert [row["id"] for row in rows(path)] == ["1"] * 50 + ["x"]


def test_a_row_with_too_few_fields_is_refused_before_anything_is_classified(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,good\n2\n", encoding="utf-8")

    with pytest.raises(DataError, match=r"in\.csv cannot be read: .*2 columns, got 1"):
        InputFile.open(str(path), "text").num_rows()


def test_the_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text\ngood\n", encoding="utf-8")
    first, again = (InputFile.open(str(path), "text").fingerprint for _ in range(2))
    path.write_text("text\ngood\nbad\n", encoding="utf-8")

    assert first == again != InputFile.open(str(path), "text").fingerprint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; give a CSV or Parquet file"):
        InputFile.open(str(tmp_path / "nowhere.csv"), "text")


@pytest.mark.parametrize(("name", "shown"), [("texts.xlsx", r"\.xlsx"), ("texts", "no suffix")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, shown: str) -> None:
    (tmp_path / name).write_text("text\ngood\n", encoding="utf-8")

    with pytest.raises(DataError, match=rf"{shown} is not known; give a \.csv or \.parquet file"):
        InputFile.open(str(tmp_path / name), "text")


@pytest.mark.parametrize("name", ["texts.parquet", "texts.csv"])
def test_a_file_that_is_not_what_its_suffix_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")

    with pytest.raises(DataError, match=f"{name} cannot be read"):
        InputFile.open(str(tmp_path / name), "text")


def write(folder: Path, suffix: str, *columns: str) -> str:
    """A file with one row, in which every column says `good`."""
    path = folder / f"texts{suffix}"
    if suffix == ".csv":
        path.write_text(f"{','.join(columns)}\n{','.join(['good'] * len(columns))}\n", encoding="utf-8")
    else:
        pq.write_table(pa.table({name: ["good"] for name in columns}), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, suffix, "id", "headline")

    with pytest.raises(DataError, match=r"has no column 'text'; it has id, headline\. Name one: --text-column"):
        InputFile.open(path, "text")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_a_prediction_would_hide_is_refused(tmp_path: Path, suffix: str, column: str) -> None:
    path = write(tmp_path, suffix, "text", column)

    with pytest.raises(DataError, match=f"already has the column '{column}'; rename it"):
        InputFile.open(path, "text")


def test_a_column_of_lists_is_no_column_of_texts(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [["good"]]}), tmp_path / "in.parquet")

    with pytest.raises(DataError, match=r"'text' holds list<.*>, not text; name another"):
        InputFile.open(str(tmp_path / "in.parquet"), "text")
