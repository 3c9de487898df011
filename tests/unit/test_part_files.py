"""Parts of predictions: kept until the whole is there, and never mixed with those of another file or model."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from common.errors import InputError
from serve.part_files import PartFiles, check_out

MADE_FROM = {"model": "/models/1", "rows": 3}
SCORES = pa.struct([("bad", pa.float64()), ("good", pa.float64())])


def part(*texts: str | None) -> pa.Table:
    scores = [None if text is None else {"bad": 0.25, "good": 0.75} for text in texts]
    return pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "predicted_label": pa.array([found and "good" for found in scores], pa.string()),
            "predicted_score": pa.array([found and found["good"] for found in scores], pa.float64()),
            "predicted_scores": pa.array(scores, SCORES),
        }
    )


def test_parts_are_joined_by_number_and_deleted(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.parquet"
    parts = PartFiles(str(out), MADE_FROM)
    for number in (2, 0, 1):
        parts.write(number, part(f"{number}"))
    assert not out.exists()

    parts.join(3)

    assert pq.read_table(out)["text"].to_pylist() == ["0", "1", "2"]
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]


def test_what_is_there_is_known_to_the_next_command(tmp_path: Path) -> None:
    out = str(tmp_path / "out.parquet")
    PartFiles(out, MADE_FROM).write(1, part("b"))
    (tmp_path / "out.parquet.parts" / ".00000000.parquet.1a2b3c4d.part").write_bytes(b"cut off")

    assert PartFiles(out, MADE_FROM).numbers() == {1}


def test_parts_of_another_file_or_model_are_not_taken(tmp_path: Path) -> None:
    out = str(tmp_path / "out.parquet")
    PartFiles(out, MADE_FROM).write(1, part("b"))

    assert PartFiles(out, {**MADE_FROM, "model": "/models/2"}).numbers() == frozenset()
    assert PartFiles(out, MADE_FROM).numbers() == frozenset()


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "out.parquet.parts" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work", encoding="utf-8")

    with pytest.raises(InputError, match=r"out\.parquet\.parts is there and no command of ours made it"):
        PartFiles(str(tmp_path / "out.parquet"), MADE_FROM)
    assert theirs.read_text(encoding="utf-8") == "years of work"


def test_a_csv_file_has_the_scores_as_json_and_nothing_for_a_missing_text(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    parts = PartFiles(str(out), MADE_FROM)
    parts.write(0, part('a "b"\nc', ""))
    parts.write(1, part(None))
    parts.join(2)

    found = pyarrow.csv.read_csv(
        out,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    ).to_pylist()
    assert [row["text"] for row in found] == ['a "b"\nc', "", None]
    assert json.loads(found[0]["predicted_scores"]) == {"bad": 0.25, "good": 0.75}
    assert list(found[2].values()) == [None] * 4


@pytest.mark.parametrize("out", ["out.xlsx", "out", "out.parquet/"])
def test_another_kind_of_file_is_refused(out: str) -> None:
    with pytest.raises(InputError, match=r"name a \.parquet or \.csv file"):
        check_out(out, pa.schema([("text", pa.string())]))


def test_what_csv_cannot_hold_is_refused_by_its_column() -> None:
    schema = pa.schema([("text", pa.string()), ("tags", pa.list_(pa.string()))])

    check_out("out.parquet", schema)
    with pytest.raises(InputError, match="CSV cannot hold the column 'tags' of list"):
        check_out("out.csv", schema)
