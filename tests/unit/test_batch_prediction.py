import pyarrow as pa
import pytest

from serve.batch_prediction import BatchClassifier
from serve.input_file import COLUMNS
from tests.tiny_model import build_engine


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_engine(tmp_path_factory.mktemp("engine")))


def test_every_row_gets_its_prediction_beside_its_own_columns(uri: str) -> None:
    table = pa.table({"id": [7, 8, 9], "headline": ["good good", "bad", "good"]})

    predicted = BatchClassifier(uri, "headline").predict(table)

    assert predicted.column_names == ["id", "headline", *COLUMNS]
    assert predicted.select(["id", "headline"]).equals(table)
    assert predicted["predicted_label"].to_pylist() == ["good", "bad", "good"]
    for score, scores in zip(*(predicted[name].to_pylist() for name in COLUMNS[1:]), strict=True):
        assert set(scores) == {"bad", "good"}
        assert score == max(scores.values())


def test_a_missing_text_gets_nulls_and_an_empty_one_what_the_model_says(uri: str) -> None:
    classify = BatchClassifier(uri, "text").predict

    predicted = classify(pa.table({"text": pa.array(["good", None, "", "bad"], pa.string())}))

    assert predicted["text"].to_pylist() == ["good", None, "", "bad"]
    assert [predicted[name][1].as_py() for name in COLUMNS] == [None, None, None]
    assert predicted["predicted_score"][2].as_py() == 0.5
    assert [predicted["predicted_label"][row].as_py() for row in (0, 3)] == ["good", "bad"]


def test_tables_with_and_without_texts_have_the_same_schema(uri: str) -> None:
    classify = BatchClassifier(uri, "text").predict
    column = pa.array([None], pa.string())

    assert classify(pa.table({"text": column})).schema == classify(pa.table({"text": ["good"]})).schema


def test_texts_that_are_numbers_are_read_as_written(uri: str) -> None:
    assert BatchClassifier(uri, "text").predict(pa.table({"text": [1, 2]})).num_rows == 2
