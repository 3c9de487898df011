import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from common.errors import TrackingError
from serve.batching import Answer, ServedVersion, Text
from serve.protocols.tensors import pack_bytes, unpack_bytes
from tests.fake_backend import REPLICAS_ANSWER, FakeBackend, ask

INFER = "/news/v2/models/news/infer"
LENGTH = "Inference-Header-Content-Length"


def tensor(texts: list[Any], **changed: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts} | changed


def send_binary(texts: list[str], backend: FakeBackend | None = None, **fields: Any) -> httpx.Response:
    raw = pack_bytes(texts)
    given = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [given], **fields}).encode()
    return ask("POST", INFER, backend, content=header + raw, headers={LENGTH: str(len(header))})


def test_all_outputs_come_as_json_when_none_is_named() -> None:
    response = ask("POST", INFER, json={"id": "42", "inputs": [tensor(["a", "b"])]})

    assert response.json() == {
        "model_name": "news",
        "model_version": "1",
        "id": "42",
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["good", "good"]},
            {"name": "score", "datatype": "FP32", "shape": [2], "data": [0.75, 0.75]},
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.25, 0.75]},
        ],
    }


@pytest.mark.parametrize(
    "given", [tensor(["a", "b"]), tensor(["a", "b"], shape=[2, 1]), tensor([["a"], ["b"]], shape=[2, 1])]
)
def test_texts_may_stand_in_a_row_or_in_a_column(given: dict[str, Any]) -> None:
    backend = FakeBackend()
    body = {"inputs": [given], "outputs": [{"name": "label"}]}

    assert ask("POST", INFER, backend, json=body).json()["outputs"][0]["shape"] == [2]
    assert backend.batches == [("news", 1, ["a", "b"])]


def test_binary_texts_are_the_same_texts() -> None:
    backend = FakeBackend()
    response = send_binary(["ä", "", "\n\0"], backend, outputs=[{"name": "score"}])

    assert response.json()["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [3], "data": [0.75] * 3}]
    assert backend.batches == [("news", 1, ["ä", "", "\n\0"])]


def read_outputs(response: httpx.Response) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header's outputs by name, and the binary part of each that has one."""
    length = int(response.headers[LENGTH])
    outputs = {output["name"]: output for output in json.loads(response.content[:length])["outputs"]}
    raw, found = response.content[length:], {}
    for name, output in outputs.items():
        if (size := output.get("parameters", {}).get("binary_data_size")) is not None:
            found[name], raw = raw[:size], raw[size:]
    assert raw == b""
    return outputs, found


def test_outputs_are_binary_where_that_was_asked_for() -> None:
    wanted = [{"name": "scores", "parameters": {"binary_data": True}}, {"name": "label"}]
    response = send_binary(["a", "b"], outputs=wanted)

    outputs, raw = read_outputs(response)
    assert response.headers["content-type"] == "application/octet-stream"
    assert list(outputs) == ["scores", "label"]
    assert outputs["label"]["data"] == ["good", "good"]
    assert np.frombuffer(raw["scores"], "<f4").reshape(outputs["scores"]["shape"]).tolist() == [[0.25, 0.75]] * 2


def test_all_outputs_are_binary_where_the_request_says_so() -> None:
    outputs, raw = read_outputs(send_binary(["a"], parameters={"binary_data_output": True}))

    assert set(raw) == set(outputs) == {"label", "score", "scores"}
    assert unpack_bytes(raw["label"], "label") == ["good"]
    assert np.frombuffer(raw["score"], "<f4").tolist() == [0.75]


def test_an_output_may_differ_from_what_the_request_says_of_all() -> None:
    wanted = [{"name": "score"}, {"name": "label", "parameters": {"binary_data": False}}]

    _, raw = read_outputs(send_binary(["a"], outputs=wanted, parameters={"binary_data_output": True}))

    assert set(raw) == {"score"}


@dataclass
class Umlauts(FakeBackend):
    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        return [{**REPLICAS_ANSWER, "label": "gut für öl"} for _ in texts]


def test_binary_labels_are_utf8() -> None:
    _, raw = read_outputs(send_binary(["a", "b"], Umlauts(), parameters={"binary_data_output": True}))

    assert unpack_bytes(raw["label"], "label") == ["gut für öl"] * 2


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "inputs: expected an array with one tensor, 'text'"),
        ({"inputs": [tensor(["a"]), tensor(["b"])]}, "inputs: expected an array with one tensor"),
        ({"inputs": ["a"]}, "inputs: expected an array with one tensor"),
        ({"inputs": [tensor(["a"], name="texts")]}, "its name is 'texts'; the model's input is 'text'"),
        ({"inputs": [tensor(["a"], datatype="FP32")]}, "its datatype is 'FP32'; texts are BYTES"),
        ({"inputs": [tensor(["a"], shape=[2])]}, "its shape says 2 texts and its data holds 1"),
        ({"inputs": [tensor(["a"], shape=[1, 2])]}, "its shape is [1, 2]; give [N] or [N, 1]"),
        ({"inputs": [tensor(["a"], shape=[-1])]}, "its shape is [-1]"),
        ({"inputs": [tensor(["a"], shape=[True])]}, "its shape is [True]"),
        ({"inputs": [tensor(["a"], shape=None)]}, "its shape is None"),
        ({"inputs": [tensor([1])]}, "its data holds number"),
        ({"inputs": [tensor(["a"], data="a")]}, "its data is string"),
        ({"inputs": [tensor(["a"], parameters=[1])]}, "parameters: expected an object and not array"),
        ({"inputs": [tensor(["a"], parameters={"binary_data_size": 5})]}, "binary_data_size is 5"),
        ({"inputs": [tensor(["a"], extra=1)]}, "inputs[0]: 'extra' is not known here"),
        ({"inputs": [tensor(["a"])], "outputs": [{"name": "logits"}]}, "is not an output of the model; known: label"),
        ({"inputs": [tensor(["a"])], "outputs": [{"name": ["label"]}]}, "is not an output of the model"),
        ({"inputs": [tensor(["a"])], "outputs": {}}, "outputs: expected an array and not object"),
        (
            {"inputs": [tensor(["a"])], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
            "'classification' is not known here",
        ),
        ({"inputs": [tensor(["a"])], "parameters": {"sequence_id": 1}}, "'sequence_id' is not known here"),
        ({"inputs": [tensor(["a"])], "parameters": {"binary_data_output": 1}}, "expected true or false"),
        ({"inputs": [tensor(["a"])], "id": 1}, "id: expected a string and not number"),
    ],
)
def test_a_wrong_request_is_explained_with_400(body: dict[str, Any], problem: str) -> None:
    backend = FakeBackend()
    response = ask("POST", INFER, backend, json=body)

    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert problem in response.json()["error"]
    assert backend.batches == []


@pytest.mark.parametrize("length", ["-1", "x", "99999", "", "1_0", "٣"])
def test_a_header_length_outside_the_body_is_refused(length: str) -> None:
    body = {"inputs": [tensor(["a"])]}
    response = ask("POST", INFER, json=body, headers=[(LENGTH.encode(), length.encode())])

    assert response.status_code == 400
    assert f"{LENGTH}: " in response.json()["error"]


def test_health_is_told_without_a_wake() -> None:
    backend = FakeBackend()
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/news/ready", "/v2/models/news/versions/1/ready")

    assert [ask("GET", f"/news{path}", backend).status_code for path in paths] == [200] * 4
    unknown = FakeBackend(registry_error=TrackingError("away"))
    assert [ask("GET", f"/news{path}", unknown).status_code for path in paths] == [200, 503, 503, 404]
    assert backend.batches == []


def test_metadata_and_configuration_tell_the_shapes_without_a_wake() -> None:
    backend = FakeBackend(version=2)
    assert ask("GET", "/news/v2", backend).json()["extensions"] == ["binary_tensor_data", "model_configuration"]

    metadata = ask("GET", "/news/v2/models/news", backend).json()
    assert (metadata["name"], metadata["versions"]) == ("news", ["2"])
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
        {"name": "score", "datatype": "FP32", "shape": [-1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
    ]
    config = ask("GET", "/news/v2/models/news/config", backend).json()
    assert config["input"] == [{"name": "text", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert [output["dims"] for output in config["output"]] == [[-1], [-1], [-1, 2]]
    assert backend.batches == []


@pytest.mark.parametrize("model", ["olds", "headlines", "news/versions/9"])
def test_another_model_or_version_is_not_here(model: str) -> None:
    body = {"inputs": [tensor(["a"])]}

    assert ask("POST", f"/news/v2/models/{model}/infer", json=body).status_code == 404
    assert ask("GET", f"/news/v2/models/{model}").status_code == 404
    assert ask("GET", f"/news/v2/models/{model}/ready").status_code == 404
