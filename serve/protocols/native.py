"""The project's own protocol: `POST /<name>/classify`, one text or many, with a score for every label."""

from typing import Annotated, Any, Self

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

from serve.exchange import JSON_TYPES, Exchange, RefusedError
from serve.routes import Protocol, Routes, json_response

_SHOWN = ("label", "score", "scores")


class Sentence(BaseModel):
    """The inner object of the `{"data": {"sentence": ...}}` form."""

    model_config = ConfigDict(extra="forbid")

    sentence: str


# Spelt out, because OpenAPI resolves references from the root of its document and not of this schema.
InlineSentence = Annotated[
    Sentence,
    WithJsonSchema(
        {
            "type": "object",
            "properties": {"sentence": {"type": "string"}},
            "required": ["sentence"],
            "additionalProperties": False,
        }
    ),
]


class ClassifyRequest(BaseModel):
    """The texts to classify, in exactly one of three forms."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"texts": ["Profits doubled", "The plant closes"]},
                {"text": "Profits doubled"},
                {"data": {"sentence": "Profits doubled"}},
            ],
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("texts", "text", "data")
            ],
        },
    )

    texts: Annotated[list[str], Field(min_length=1)] | None = Field(None, description="Any number of texts.")
    text: str | None = Field(None, description="One text; the answer is then one prediction.")
    data: InlineSentence | None = Field(None, description="One text, as scoring APIs wrap it; one prediction again.")

    @model_validator(mode="after")
    def _exactly_one_form(self) -> Self:
        if sum(given is not None for given in (self.texts, self.text, self.data)) != 1:
            raise ValueError('give exactly one of "texts": [...], "text": "..." and "data": {"sentence": "..."}')
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts, whatever the form."""
        if self.texts is not None:
            return self.texts
        return [self.text if self.text is not None else self.data.sentence if self.data else ""]

    @property
    def wants_one(self) -> bool:
        """Whether the answer is one prediction rather than a list."""
        return self.texts is None


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
    """The request in `body`. Raises `RefusedError` with one line for each mistake."""
    try:
        return ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(detail)) for detail in error.errors(include_url=False))
        raise RefusedError(422, problems) from None


def add_routes(routes: Routes) -> None:
    """`POST /{name}/classify`."""
    routes.post(
        PROTOCOL,
        "/{name}/classify",
        _classify,
        "Classify texts",
        answer={"model": Predictions | OnePrediction, "description": "Predictions, or one for one text."},
        body={"application/json": {"schema": ClassifyRequest.model_json_schema()}},
    )


async def _classify(exchange: Exchange) -> Response:
    exchange.require_content_type(JSON_TYPES)
    wanted = parse_request(await exchange.body())
    answers = await exchange.classify(wanted.all_texts)
    predictions = [{key: answer[key] for key in _SHOWN} for answer in answers]
    by = {"model": exchange.endpoint.spec.model, "version": exchange.version}
    return json_response({**predictions[0], **by} if wanted.wants_one else {"predictions": predictions, **by})


def _explain(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")  # what pydantic puts before our own words
    return f"{where}: {message}" if where else message


def refuse(refusal: RefusedError) -> Response:
    """`{"error": ...}`."""
    return json_response({"error": str(refusal)}, refusal.status, refusal.headers)


PROTOCOL = Protocol("classify", refuse, error_schema=Problem.model_json_schema())
