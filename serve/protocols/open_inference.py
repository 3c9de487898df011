"""Open Inference Protocol (v2, of KServe and Triton): `/<name>/v2/...`, as `tritonclient.http` speaks it.

The protocol: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
An endpoint is a server with one model, which has the endpoint's name. No question here wakes a replica; `infer` does.
"""

from collections.abc import Sequence
from typing import Any

import pydantic_core
from fastapi import Response

from serve.batching import Answer
from serve.bodies import off_loop
from serve.exchange import Exchange, RefusedError, flag, json_object, kind, only, settings
from serve.protocols.tensors import Tensor, read_texts
from serve.routes import Protocol, Routes, json_response
from serve.version import own_version

HEADER_LENGTH = "Inference-Header-Content-Length"
"""Bytes of JSON at the beginning of a body whose rest is binary tensors."""

INPUT = "text"
OUTPUTS = ("label", "score", "scores")

_CONTENT_TYPES = {"", "application/json", "application/octet-stream"}
_STATUSES = {422: 400}  # what Triton answers to what it cannot read


def refuse(refusal: RefusedError) -> Response:
    """`{"error": ...}`."""
    status = _STATUSES.get(refusal.status, refusal.status)
    return json_response({"error": str(refusal)}, status, refusal.headers)


PROTOCOL = Protocol(
    "open-inference",
    refuse,
    error_schema={"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
    statuses=_STATUSES,
)
_OBJECT = {"application/json": {"schema": {"type": "object"}}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"binary_data_output": {"type": "boolean"}},
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"const": INPUT},
                    "shape": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "integer"}},
                    "datatype": {"const": "BYTES"},
                    "data": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"enum": list(OUTPUTS)}}},
        },
    },
    "examples": [
        {
            "inputs": [
                {"name": INPUT, "shape": [2], "datatype": "BYTES", "data": ["Profits doubled", "The plant closes"]}
            ],
            "outputs": [{"name": "label"}, {"name": "score"}],
        }
    ],
}


def add_routes(routes: Routes) -> None:
    """Everything below `/{name}/v2`."""

    def get(path: str, handler: Any, what: str, content: dict[str, Any] | None = _OBJECT) -> None:
        answer = {"description": what, **({"content": content} if content else {})}
        routes.get(PROTOCOL, f"/{{name}}/v2{path}", handler, f"Open Inference: {what}", answer)

    get("", _server_metadata, "the server")
    get("/health/live", _live, "whether the gateway lives", content=None)
    get("/health/ready", _ready, "whether requests are answered", content=None)
    for model in ("/models/{model}", "/models/{model}/versions/{version}"):
        get(model, _model_metadata, "the model's inputs and outputs")
        get(f"{model}/config", _model_config, "the model's configuration, in Triton's words")
        get(f"{model}/ready", _model_ready, "whether the model answers", content=None)
        routes.post(
            PROTOCOL,
            f"/{{name}}/v2{model}/infer",
            _infer,
            "Open Inference: classify texts",
            answer={
                "description": "The outputs, as JSON or behind it as binary tensors.",
                "content": {**_OBJECT, "application/octet-stream": _BINARY},
            },
            body={"application/json": {"schema": _REQUEST}, "application/octet-stream": _BINARY},
        )


async def _server_metadata(_exchange: Exchange) -> Response:
    extensions = ["binary_tensor_data", "model_configuration"]
    return json_response({"name": "tuneserve", "version": own_version(), "extensions": extensions})


async def _live(_exchange: Exchange) -> Response:
    return Response()


async def _ready(exchange: Exchange) -> Response:
    exchange.require_version()
    return Response()


async def _model_ready(exchange: Exchange) -> Response:
    _check_model(exchange)
    return await _ready(exchange)


async def _model_metadata(exchange: Exchange) -> Response:
    _check_model(exchange)
    num_labels = len((await exchange.settings()).labels)
    shapes = {"label": [-1], "score": [-1], "scores": [-1, num_labels]}
    return json_response(
        {
            "name": exchange.endpoint.name,
            "versions": [str(exchange.version)],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": name, "datatype": _datatype(name), "shape": shapes[name]} for name in OUTPUTS],
        }
    )


async def _model_config(exchange: Exchange) -> Response:
    _check_model(exchange)
    num_labels = len((await exchange.settings()).labels)
    dims = {"label": [-1], "score": [-1], "scores": [-1, num_labels]}
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}
    return json_response(
        {
            "name": exchange.endpoint.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": 0,  # shapes are whole: the first dimension is not left out
            "input": [{"name": INPUT, "data_type": "TYPE_STRING", "dims": [-1]}],
            "output": [{"name": name, "data_type": types[_datatype(name)], "dims": dims[name]} for name in OUTPUTS],
        }
    )


async def _infer(exchange: Exchange) -> Response:
    _check_model(exchange)
    exchange.require_content_type(_CONTENT_TYPES)
    body = await exchange.body()
    length = _header_length(exchange, len(body))
    wanted = await off_loop(json_object, body[:length])
    only(wanted, ("id", "parameters", "inputs", "outputs"))
    if not isinstance(wanted.get("id", ""), str):
        raise RefusedError(422, f"id: expected a string and not {kind(wanted['id'])}")
    outputs = _wanted_outputs(wanted)
    texts = _texts(wanted.get("inputs"), body[length:])
    answers = await exchange.classify(texts)
    described = {"model_name": exchange.endpoint.name, "model_version": str(exchange.version)}
    if "id" in wanted:
        described["id"] = wanted["id"]
    return _response(described, [(_output(name, answers), is_binary) for name, is_binary in outputs.items()])


def _check_model(exchange: Exchange) -> None:
    """Refuses the name of another model, and a version that is not the one which answers."""
    model = exchange.request.path_params["model"]
    if model != exchange.endpoint.name:
        raise RefusedError(404, f"there is no model {model!r} here; there is: {exchange.endpoint.name}")
    version = exchange.request.path_params.get("version")
    if version is not None and version != str(exchange.version):
        raise RefusedError(404, f"version {version} of {model!r} does not answer here; version {exchange.version} does")


def _header_length(exchange: Exchange, num_bytes: int) -> int:
    given = exchange.request.headers.get(HEADER_LENGTH)
    if given is None:
        return num_bytes
    if not (given.isascii() and given.isdigit()) or int(given) > num_bytes:
        raise RefusedError(422, f"{HEADER_LENGTH}: {given!r} is not a length within the body's {num_bytes} bytes")
    return int(given)


def _texts(inputs: Any, raw: bytes) -> list[str]:
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise RefusedError(422, f"inputs: expected an array with one tensor, {INPUT!r}")
    only(inputs[0], ("name", "shape", "datatype", "parameters", "data"), "inputs[0]: ")
    if inputs[0].get("name") != INPUT:
        raise RefusedError(422, f"inputs[0]: its name is {inputs[0].get('name')!r}; the model's input is {INPUT!r}")
    return read_texts(inputs[0], raw, f"input {INPUT!r}")


def _wanted_outputs(wanted: dict[str, Any]) -> dict[str, bool]:
    """The outputs that the client asked for (all, if it asked for none), and whether each shall be binary."""
    all_binary = flag(settings(wanted.get("parameters"), "parameters", ("binary_data_output",)), "binary_data_output")
    outputs = wanted.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(OUTPUTS, all_binary)
    if not isinstance(outputs, list):
        raise RefusedError(422, f"outputs: expected an array and not {kind(outputs)}")
    found: dict[str, bool] = {}
    for output in outputs:
        if not isinstance(output, dict) or output.get("name") not in OUTPUTS:
            raise RefusedError(422, f"outputs: {output!r} is not an output of the model; known: {', '.join(OUTPUTS)}")
        only(output, ("name", "parameters"), "outputs: ")
        parameters = settings(output.get("parameters"), "outputs: parameters", ("binary_data",))
        found[output["name"]] = flag(parameters, "binary_data", all_binary)
    return found


def _datatype(output: str) -> Any:
    return "BYTES" if output == "label" else "FP32"


def _output(name: str, answers: Sequence[Answer]) -> Tensor:
    """`label` and `score` have shape (N,), `scores` (N, C) in the order of the model's labels."""
    if name != "scores":
        return Tensor(name, _datatype(name), (len(answers),), [answer[name] for answer in answers])
    shape = (len(answers), len(answers[0]["scores"]))
    return Tensor(name, "FP32", shape, [score for answer in answers for score in answer["scores"].values()])


def _response(described: dict[str, Any], outputs: Sequence[tuple[Tensor, bool]]) -> Response:
    """JSON alone, or JSON followed by the outputs that are to be binary."""
    if not any(is_binary for _, is_binary in outputs):
        return json_response({**described, "outputs": [tensor.as_json() for tensor, _ in outputs]})
    tensors: list[dict[str, Any]] = []
    raws: list[bytes] = []
    for tensor, is_binary in outputs:
        if is_binary:
            shown, raw = tensor.as_binary()
            raws.append(raw)
        else:
            shown = tensor.as_json()
        tensors.append(shown)
    header = pydantic_core.to_json({**described, "outputs": tensors})
    headers = {HEADER_LENGTH: str(len(header))}
    return Response(b"".join([header, *raws]), 200, headers, "application/octet-stream")
