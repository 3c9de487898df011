import csv
import io
import json

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given

from common.errors import DataError
from common.recipe import Data
from common.table_files import read_csv, read_json_lines, read_parquet
from common.text_encoding import decode, repaired

DATA = Data(source="unused")
ROWS = st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=8)


def rows_of(table):
    return [(row["text"], row["label"]) for row in table.to_pylist()]


def parquet(**columns):
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), sink)
    return sink.getvalue()


@given(ROWS)
def test_csv_returns_every_text_as_it_was_written(rows):
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    assert rows_of(read_csv(written.getvalue().encode(), "a.csv", DATA)) == rows


@given(ROWS)
def test_json_lines_return_every_text_as_it_was_written(rows):
    lines = "\n".join(json.dumps({"label": label, "text": text}, ensure_ascii=False) for text, label in rows)
    assert rows_of(read_json_lines(lines.encode(), "a.jsonl", DATA)) == rows


def test_words_for_missing_values_stay_texts():
    content = b"text,label\nNA,0\nnull,NA\n,1\n"
    assert rows_of(read_csv(content, "a.csv", DATA)) == [("NA", "0"), ("null", "NA"), ("", "1")]


def test_a_row_may_be_longer_than_a_block_and_hold_line_breaks():
    text = "long line\n" * 300_000
    assert rows_of(read_csv(f'text,label\n"{text}",a\n'.encode(), "a.csv", DATA)) == [(text, "a")]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"text,label", b"text,label\n"])
def test_an_empty_csv_has_no_rows(content):
    assert read_csv(content, "a.csv", DATA).num_rows == 0


def test_a_headerless_latin1_file_is_read_by_recipe():
    data = Data(source="unused", encoding="latin-1", column_names=("label", "text"))
    assert rows_of(read_csv("neutral,Seppälä\n".encode("latin-1"), "a.csv", data)) == [("Seppälä", "neutral")]


def test_column_names_for_a_file_with_a_header_are_an_error():
    data = Data(source="unused", column_names=("text", "label"))
    with pytest.raises(DataError, match=r"begins with a header line; remove data\.column_names"):
        read_csv(b"text,label\na,b\n", "a.csv", data)


def test_a_missing_column_is_named_with_those_there_and_the_closest():
    with pytest.raises(DataError, match=r"no column 'text'; it has 'texts', 'label': did you mean 'texts'\?"):
        read_csv(b"texts,label\na,b\n", "a.csv", DATA)


def test_a_column_that_is_there_twice_is_an_error():
    with pytest.raises(DataError, match="2 columns called 'text'"):
        read_csv(b"text,text,label\na,b,c\n", "a.csv", DATA)


@pytest.mark.parametrize(
    ("row", "message"), [("a,b,c", "row 3 has 3 where 2"), ('"open,b', "row 3 has 1 where 2"), ("a", "row 3 has 1")]
)
def test_ragged_rows_and_open_quotes_are_counted_and_numbered(row, message):
    with pytest.raises(DataError, match=f"1 row with the wrong number of fields; first, {message}"):
        read_csv(f"text,label\nx,y\n{row}\n".encode(), "a.csv", DATA)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1], ["0", "1"]),
        ([0.0, 1.0], ["0", "1"]),
        ([0.5, 1.0], ["0.5", "1"]),
        ([1e10, 2e10], ["10000000000", "20000000000"]),
        ([True, False], ["true", "false"]),
        (["0", None], ["0", None]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_typed_labels_become_the_strings_a_person_would_write(labels, expected):
    table = read_parquet(parquet(label=labels, text=["x", "y"]), "a.parquet", DATA)
    assert table.column("label").to_pylist() == expected
    assert table.column("text").to_pylist() == ["x", "y"]


@pytest.mark.parametrize(("label", "expected"), [("0", "0"), ("0.0", "0"), ("true", "true"), ("null", None)])
def test_json_labels_become_strings(label, expected):
    table = read_json_lines(f'{{"text": "x", "label": {label}}}'.encode(), "a.jsonl", DATA)
    assert table.column("label").to_pylist() == [expected]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a", "label": "b"}\n{oops', "line 2 is not JSON"),
        (b"[1, 2]", "line 1 is not an object"),
        (b'{"text": 1, "label": 2}', "'text' is '1', not text"),
        (b'{"text": "a", "label": [1]}', "not one label"),
        (b'{"text": "a"}', "no column 'label'"),
        (b'{"text": "\\ud800", "label": "b"}', "half a character"),
    ],
)
def test_wrong_json_lines_are_named_by_line(content, message):
    with pytest.raises(DataError, match=message):
        read_json_lines(content, "a.jsonl", DATA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK", "not a Parquet file"),
        (parquet(text=[1], label=["a"]), "holds int64, not text"),
        (parquet(text=["a"], label=[[1]]), "not one label a row"),
    ],
)
def test_wrong_parquet_is_an_error(content, message):
    with pytest.raises(DataError, match=message):
        read_parquet(content, "a.parquet", DATA)


def test_a_wrong_encoding_names_the_byte_and_how_others_read_it():
    content = "text,label\nSeppälä,a\n".encode("latin-1")
    with pytest.raises(DataError, match=r"byte 15 \(line 2\) is 0xe4.*cp1252 reads 'Seppälä,a', latin-1") as error:
        decode(content, "a.csv", "utf-8")
    assert "utf-8 reads" not in str(error.value)


def test_mixed_encodings_in_one_file_are_told():
    with pytest.raises(DataError, match="the file mixes encodings"):
        decode("Åland\n".encode() + "Åland\n".encode("latin-1"), "a.csv", "utf-8")


def test_utf16_is_recognised_and_byte_order_marks_are_dropped():
    with pytest.raises(DataError, match=r"set data\.encoding=utf-16"):
        decode("a,b".encode("utf-16"), "a.csv", "utf-8")
    assert decode("a,b".encode("utf-16"), "a.csv", "utf-16") == "a,b"
    assert decode("\ufeffa,b".encode(), "a.csv", "utf-8") == "a,b"


@pytest.mark.parametrize("encoding", ["utf9", "hex"])
def test_an_unknown_encoding_is_an_error(encoding):
    with pytest.raises(DataError, match="not a text encoding"):
        decode(b"a", "a.csv", encoding)


def test_twice_encoded_texts_are_recognised_and_sound_ones_are_not():
    assert repaired("Féin".encode().decode("cp1252")) == "Féin"
    assert all(repaired(text) is None for text in ("Féin", "plain", "naïve café", "10 €", "日本"))
