"""text-embeddings-inference: `/<name>/predict`, `/<name>/info` and `/<name>/health`, as that server answers.

Its interface: https://huggingface.github.io/text-embeddings-inference/ . Where its document and its code differ, the
code is followed in the spelling of `error_type`, and the document in the status 413 of too large a batch.
"""

from typing import Any

from fastapi import Response

from serve.batching import Answer, Text
from serve.exchange import Exchange, RefusedError, flag, kind, only, strings
from serve.routes import Protocol, Routes, json_response
from serve.version import own_version

_ERROR_TYPES = {400: "Empty", 429: "Overloaded", 500: "Backend", 503: "Unhealthy", 504: "Backend"}
"""The rest is `Validation`."""

_STATUSES = {500: 424}  # the failed dependency is the model


def refuse(refusal: RefusedError) -> Response:
    """`{"error": ..., "error_type": ...}`."""
    content = {"error": str(refusal), "error_type": _ERROR_TYPES.get(refusal.status, "Validation")}
    return json_response(content, _STATUSES.get(refusal.status, refusal.status), refusal.headers)


PROTOCOL = Protocol(
    "text-embeddings-inference",
    refuse,
    error_schema={
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {
            "error": {"type": "string"},
            "error_type": {"enum": ["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]},
        },
    },
    statuses=_STATUSES,
    own_refusals={400: "A text is empty."},
)
_SEQUENCE = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}
_REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "description": "A text, a pair of texts, or a batch of [text] and [text, text].",
            "anyOf": [{"type": "string"}, _SEQUENCE, {"type": "array", "minItems": 1, "items": _SEQUENCE}],
        },
        "raw_scores": {"type": "boolean", "default": False, "description": "Logits instead of probabilities."},
        "truncate": {
            "type": ["boolean", "null"],
            "description": "false refuses a text with more tokens than the model reads; it is cut off otherwise.",
        },
        "truncation_direction": {"enum": ["Right", "right"], "default": "Right"},
    },
    "examples": [
        {"inputs": "Profits doubled"},
        {"inputs": [["Profits doubled"], ["The plant closes"]], "raw_scores": True},
        {"inputs": [["Profits doubled", "The plant closes"]], "truncate": False},
    ],
}
_RANKED = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"score": {"type": "number"}, "label": {"type": "string"}},
        "required": ["score", "label"],
    },
}
_PREDICT_ANSWER = {
    "description": "The labels of a text, the likeliest first; of a batch, a list of these.",
    "content": {"application/json": {"schema": {"anyOf": [_RANKED, {"type": "array", "items": _RANKED}]}}},
}
_INFO_ANSWER = {
    "description": "The model and its limits.",
    "content": {"application/json": {"schema": {"type": "object", "required": ["model_id", "model_type"]}}},
}


def add_routes(routes: Routes) -> None:
    """`POST /{name}/predict`, `GET /{name}/info`, `GET /{name}/health`."""
    routes.post(
        PROTOCOL,
        "/{name}/predict",
        _predict,
        "text-embeddings-inference: predict",
        answer=_PREDICT_ANSWER,
        body={"application/json": {"schema": _REQUEST}},
    )
    routes.get(PROTOCOL, "/{name}/info", _info, "text-embeddings-inference: the model and its limits", _INFO_ANSWER)
    routes.get(
        PROTOCOL,
        "/{name}/health",
        _health,
        "text-embeddings-inference and MLflow: whether requests are answered",
        answer={"description": "They are; an endpoint that sleeps wakes for them."},
    )


async def _predict(exchange: Exchange) -> Response:
    wanted = await exchange.json()
    only(wanted, ("inputs", "raw_scores", "truncate", "truncation_direction"))
    texts, is_batch = _inputs(wanted.get("inputs"))
    raw_scores = flag(wanted, "raw_scores")
    truncate = wanted.get("truncate") is None or flag(wanted, "truncate")
    direction = wanted.get("truncation_direction", "Right")
    if direction not in ("Right", "right"):
        raise RefusedError(422, f"truncation_direction is {direction!r}; texts are cut off on the Right here")
    answers = await exchange.classify(texts)
    if not truncate and any(answer["truncated"] for answer in answers):
        raise RefusedError(
            422, "`inputs` has more tokens than the model reads (see /info); send less, or truncate: true"
        )
    ranked = [_ranked(answer, raw_scores) for answer in answers]
    return json_response(ranked if is_batch else ranked[0])


async def _info(exchange: Exchange) -> Response:
    settings = await exchange.settings()
    spec = exchange.endpoint.spec
    labels = dict(enumerate(settings.labels))
    return json_response(
        {
            "model_id": spec.model,
            "model_sha": str(exchange.version),
            "model_dtype": settings.precision,
            "served_model_name": exchange.endpoint.name,
            "model_type": {
                "classifier": {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}
            },
            "max_concurrent_requests": spec.max_queued_requests,
            "max_input_length": settings.max_length,
            "max_batch_tokens": settings.max_length * spec.max_queued_requests,
            "max_batch_requests": None,
            "max_client_batch_size": spec.max_queued_requests,
            "auto_truncate": True,
            "tokenization_workers": spec.max_replicas,
            "version": own_version(),
            "sha": None,
            "docker_label": None,
        }
    )


async def _health(exchange: Exchange) -> Response:
    exchange.require_version()
    return Response()


def _inputs(inputs: Any) -> tuple[list[Text], bool]:
    """The texts, and whether they are a batch: `"a"`, `["a"]` and the pair `["a", "b"]` are not."""
    if isinstance(inputs, str):
        return [_sequence([inputs], "inputs")], False
    if not isinstance(inputs, list) or not inputs:
        given = "an empty array" if inputs == [] else kind(inputs)
        raise RefusedError(
            422, f"inputs: expected a string, a pair of strings or a batch of such lists, and not {given}"
        )
    if isinstance(inputs[0], str):
        return [_sequence(inputs, "inputs")], False
    return [_sequence(item, f"inputs[{number}]") for number, item in enumerate(inputs)], True


def _sequence(item: Any, where: str) -> Text:
    parts = strings(item, where)
    if not 1 <= len(parts) <= 2:
        raise RefusedError(422, f"{where}: expected one string or a pair, and not {len(parts)}")
    if not any(parts):
        raise RefusedError(400, "`inputs` cannot be empty")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _ranked(answer: Answer, raw_scores: bool) -> list[dict[str, Any]]:
    scores = answer["logits"] if raw_scores else answer["scores"].values()
    ranked = sorted(zip(scores, answer["scores"], strict=True), key=lambda pair: -pair[0])
    return [{"score": score, "label": label} for score, label in ranked]
