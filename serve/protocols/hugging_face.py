"""Hugging Face Inference: `POST /<name>`, as `huggingface_hub.InferenceClient(model=URL).text_classification` asks.

The task's input and output: https://huggingface.co/docs/inference-providers/tasks/text-classification
"""

import math
from collections.abc import Callable
from typing import Any

from fastapi import Response

from serve.batching import Answer
from serve.exchange import Exchange, RefusedError, only, settings, strings
from serve.protocols.native import refuse
from serve.routes import Protocol, Routes, json_response

_LABELS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
        "required": ["label", "score"],
    },
}
_ANSWER = {
    "description": "For each text its labels, the likeliest first.",
    "content": {"application/json": {"schema": {"type": "array", "items": _LABELS}}},
}
_REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["inputs"],
    "properties": {
        "inputs": {"oneOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}]},
        "parameters": {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {
                "top_k": {"type": ["integer", "null"], "minimum": 1},
                "function_to_apply": {"enum": ["softmax", "sigmoid", "none", None]},
            },
        },
    },
    "examples": [
        {"inputs": "Profits doubled"},
        {"inputs": ["Profits doubled", "The plant closes"], "parameters": {"top_k": 1, "function_to_apply": "softmax"}},
    ],
}
PROTOCOL = Protocol(
    "hugging-face",
    refuse,
    error_schema={"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]},
)


def add_routes(routes: Routes) -> None:
    """`POST /{name}`."""
    routes.post(
        PROTOCOL,
        "/{name}",
        _text_classification,
        "Hugging Face Inference: text classification",
        answer=_ANSWER,
        body={"application/json": {"schema": _REQUEST}},
    )


async def _text_classification(exchange: Exchange) -> Response:
    wanted = await exchange.json()
    only(wanted, ("inputs", "parameters"))
    texts = _texts(wanted.get("inputs"))
    top_k, score = _parameters(wanted.get("parameters"))
    answers = await exchange.classify(texts)
    return json_response([_ranked(answer, score)[:top_k] for answer in answers])


def _texts(inputs: Any) -> list[str]:
    return [inputs] if isinstance(inputs, str) else strings(inputs, "inputs")


def _parameters(given: Any) -> tuple[int | None, str]:
    """`top_k` (None: all labels) and `function_to_apply`."""
    parameters = settings(given, "parameters", ("top_k", "function_to_apply"))
    top_k = parameters.get("top_k")
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise RefusedError(
            422, f"parameters: top_k is {top_k!r}; give a whole number from 1 on, or leave it out for all"
        )
    function = parameters.get("function_to_apply")
    if function is not None and (not isinstance(function, str) or function not in _FUNCTIONS):
        raise RefusedError(422, f"parameters: function_to_apply is {function!r}; give one of {', '.join(_FUNCTIONS)}")
    return top_k, function or "softmax"


def _ranked(answer: Answer, function: str) -> list[dict[str, Any]]:
    scored = zip(answer["scores"], _FUNCTIONS[function](answer), strict=True)
    return [{"label": label, "score": score} for label, score in sorted(scored, key=lambda pair: -pair[1])]


def _sigmoid(logit: float) -> float:
    return 0.5 * (1 + math.tanh(0.5 * logit))  # the logistic function, without overflow


_FUNCTIONS: dict[str, Callable[[Answer], Any]] = {
    "softmax": lambda answer: answer["scores"].values(),
    "sigmoid": lambda answer: map(_sigmoid, answer["logits"]),
    "none": lambda answer: answer["logits"],
}
