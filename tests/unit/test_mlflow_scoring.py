from importlib.metadata import version
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ServingError, TrackingError
from serve.protocols.mlflow_scoring import _csv_texts
from tests.fake_backend import FakeBackend, ask

PREDICTION = {"label": "good", "score": 0.75}
TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\r")), min_size=1, max_size=5
)  # pandas does not quote \r


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ["a", "b"]},
        {"inputs": [["a"], ["b"]]},
        {"inputs": [{"text": "a"}, {"text": "b"}]},
        {"inputs": {"text": ["a", "b"]}},
        {"inputs": {"number": [1, 2], "text": ["a", "b"]}},
        {"inputs": ["a", "b"], "params": None},
        {"inputs": ["a", "b"], "params": {}},
        {"instances": ["a", "b"]},
        {"instances": [{"headline": "a"}, {"headline": "b"}]},
        {"dataframe_records": [{"text": "a", "number": 1}, {"text": "b", "number": 2}]},
        {"dataframe_split": {"columns": ["text"], "data": [["a"], ["b"]]}},
        {"dataframe_split": {"index": [5, 6], "columns": [0], "data": [["a"], ["b"]]}},
        {"dataframe_split": {"columns": ["number", "text"], "data": [[1, "a"], [2, "b"]]}},
    ],
)
def test_every_form_gives_the_same_texts(body: dict[str, Any]) -> None:
    backend = FakeBackend()
    response = ask("POST", "/news/invocations", backend, json=body)

    assert (response.status_code, response.json()) == (200, {"predictions": [PREDICTION, PREDICTION]})
    assert backend.batches == [("news", 1, ["a", "b"])]


def test_one_text_needs_no_list() -> None:
    assert ask("POST", "/news/invocations", json={"inputs": "a"}).json() == {"predictions": [PREDICTION]}


@given(TEXTS)
def test_a_frames_csv_is_read_as_it_was(texts: list[str]) -> None:
    for frame in (pd.DataFrame({"text": texts}), pd.DataFrame({"number": range(len(texts)), "text": texts})):
        assert _csv_texts(frame.to_csv(index=False).encode()) == texts
    assert _csv_texts(pd.DataFrame({"text": texts}).to_csv().encode()) == texts  # with its index


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "the body is empty"),
        (b"text\n\xff\n", "not CSV in UTF-8"),
        (b'text\n"a\n', "not CSV in UTF-8"),
        (b"a,b\n1,2\n", "the columns are 'a', 'b'"),
        (b"number,text\n1,a,b\n", "CSV row 1 has 3 values and the header 2"),
        (b"text\n", "there is no text"),
    ],
)
def test_csv_that_cannot_be_read_is_explained(body: bytes, problem: str) -> None:
    response = ask("POST", "/news/invocations", content=body, headers={"content-type": "text/csv; charset=utf-8"})

    assert (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST")
    assert problem in response.json()["message"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "give exactly one of inputs, instances, dataframe_split, dataframe_records; given: none"),
        ({"inputs": ["a"], "instances": ["b"]}, "given: inputs, instances"),
        ({"inputs": 1}, "inputs: expected an array and not number"),
        ({"inputs": ["a", 1]}, "inputs[1]: expected a string and not number"),
        ({"inputs": [["a", "b"]]}, "inputs[0]: expected a string and not array"),
        ({"inputs": {"a": ["x"], "b": ["y"]}}, "the columns are 'a', 'b'; give one column, or name the one to read"),
        ({"instances": {"text": ["a"]}}, "instances: expected an array and not object"),
        ({"dataframe_records": [{}]}, "the columns are none"),
        ({"dataframe_split": []}, "dataframe_split: expected an object with columns and data"),
        ({"dataframe_split": {"data": [["a"]]}}, "columns: expected an array and not null"),
        ({"dataframe_split": {"columns": ["text"], "data": [["a", "b"]]}}, "data[0]: expected an array of 1 values"),
        ({"inputs": ["a"], "params": {"top_k": 1}}, "params: 'top_k' is not known here; known: none"),
        ({"inputs": ["a"], "params": 1}, "params: expected an object and not number"),
        ({"text": "a"}, "'text' is not known here"),
    ],
)
def test_what_cannot_be_read_is_a_bad_request(body: dict[str, Any], problem: str) -> None:
    backend = FakeBackend()
    response = ask("POST", "/news/invocations", backend, json=body)

    assert (response.status_code, response.json()["error_code"]) == (400, "BAD_REQUEST")
    assert problem in response.json()["message"]
    assert backend.batches == []


@pytest.mark.parametrize(
    ("backend", "status", "code"),
    [
        (FakeBackend(replica_error=ServingError("x")), 500, "INTERNAL_ERROR"),
        (FakeBackend(registry_error=TrackingError("x")), 503, "TEMPORARILY_UNAVAILABLE"),
    ],
)
def test_failures_have_mlflows_codes(backend: FakeBackend, status: int, code: str) -> None:
    response = ask("POST", "/news/invocations", backend, json={"inputs": ["a"]})

    assert (response.status_code, response.json()["error_code"]) == (status, code)


def test_ping_and_version_wake_nothing() -> None:
    backend = FakeBackend()
    ping = ask("GET", "/news/ping", backend)

    assert (ping.status_code, ping.headers["X-Model-Version"]) == (200, "1")
    assert ask("GET", "/news/version", backend).text == version("mlflow")
    assert ask("GET", "/news/ping", FakeBackend(registry_error=TrackingError("x"))).status_code == 503
    assert backend.batches == []


@pytest.mark.parametrize(
    "body",
    [b"," * 3_000_000, b"text\n" + b"a\n" * 2_000_000, b"text\n" + b"\n" * 2_000_000, b"text,b\n" + b",\n" * 1_000_000],
    ids=["names", "rows", "empty rows", "values"],
)
def test_csv_of_millions_of_values_is_refused_in_few_words(body: bytes) -> None:
    response = ask("POST", "/news/invocations", content=body, headers={"content-type": "text/csv"})

    assert response.status_code == 413
    assert len(response.text) < 300
