"""The project's own protocol: `POST /<name>/classify`, one text or many, with a score for every label."""

from dataclasses import dataclass

from fastapi import Response
from pydantic import BaseModel, Field

from serve.bodies import off_loop
from serve.exchange import JSON_TYPES, Exchange, RefusedError, json_object, only, settings, string, strings
from serve.routes import Protocol, Routes, json_response

_SHOWN = ("label", "score", "scores")


_FORMS = ("texts", "text", "data")
_SENTENCE = {
    "type": "object",
    "properties": {"sentence": {"type": "string"}},
    "required": ["sentence"],
    "additionalProperties": False,
}
REQUEST = {
    "description": "The texts to classify, in exactly one of three forms.",
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "texts": {
            "description": "Any number of texts.",
            "anyOf": [{"type": "array", "items": {"type": "string"}, "minItems": 1}, {"type": "null"}],
        },
        "text": {
            "description": "One text; the answer is then one prediction.",
            "anyOf": [{"type": "string"}, {"type": "null"}],
        },
        "data": {
            "description": "One text, as scoring APIs wrap it; one prediction again.",
            "anyOf": [_SENTENCE, {"type": "null"}],
        },
    },
    "oneOf": [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in _FORMS],
    "examples": [
        {"texts": ["Profits doubled", "The plant closes"]},
        {"text": "Profits doubled"},
        {"data": {"sentence": "Profits doubled"}},
    ],
}
"""The body's JSON Schema."""


@dataclass(frozen=True)
class ClassifyRequest:
    """What a body asks for."""

    texts: list[str]
    wants_one: bool
    """Whether the answer is one prediction rather than a list."""


class Prediction(BaseModel):
    """What the model says of one text; the scores are probabilities and add up to 1."""

    label: str
    score: float = Field(description="The probability of `label`.")
    scores: dict[str, float] = Field(description="The probability of every label.")


class Predictions(BaseModel):
    """The answer to `texts`: one prediction for each, in their order, all by the same version of the model."""

    predictions: list[Prediction]
    model: str
    version: int


class OnePrediction(Prediction):
    """The answer to `text` and to `data`."""

    model: str
    version: int


class Problem(BaseModel):
    """The body of every answer that is not 200."""

    error: str


def parse_request(body: bytes) -> ClassifyRequest:
    """The request in `body`. Raises `RefusedError` at the first mistake: a body can hold thousands."""
    wanted = json_object(body)
    only(wanted, _FORMS)
    given = [name for name in _FORMS if wanted.get(name) is not None]
    if len(given) != 1:
        raise RefusedError(422, 'give exactly one of "texts": [...], "text": "..." and "data": {"sentence": "..."}')
    if given == ["texts"]:
        texts = strings(wanted["texts"], "texts")
        if not texts:
            raise RefusedError(422, "texts: there is no text; send at least one")
        return ClassifyRequest(texts, wants_one=False)
    if given == ["text"]:
        return ClassifyRequest([string(wanted["text"], "text")], wants_one=True)
    sentence = settings(wanted["data"], "data", ("sentence",)).get("sentence")
    return ClassifyRequest([string(sentence, "data.sentence")], wants_one=True)


def add_routes(routes: Routes) -> None:
    """`POST /{name}/classify`."""
    routes.post(
        PROTOCOL,
        "/{name}/classify",
        _classify,
        "Classify texts",
        answer={"model": Predictions | OnePrediction, "description": "Predictions, or one for one text."},
        body={"application/json": {"schema": REQUEST}},
    )


async def _classify(exchange: Exchange) -> Response:
    exchange.require_content_type(JSON_TYPES)
    wanted = await off_loop(parse_request, await exchange.body())
    answers = await exchange.classify(wanted.texts)
    predictions = [{key: answer[key] for key in _SHOWN} for answer in answers]
    by = {"model": exchange.endpoint.spec.model, "version": exchange.version}
    return json_response({**predictions[0], **by} if wanted.wants_one else {"predictions": predictions, **by})


def refuse(refusal: RefusedError) -> Response:
    """`{"error": ...}`."""
    return json_response({"error": str(refusal)}, refusal.status, refusal.headers)


PROTOCOL = Protocol("classify", refuse, error_schema=Problem.model_json_schema())
