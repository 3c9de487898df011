"""What the gateway takes and answers over HTTP: the request bodies, the answers, and how a body is read."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

State = Literal["asleep", "waking", "awake"]
"""`asleep`: no replica; `waking`: one is on its way; `awake`: at least one answers."""


class Sentence(BaseModel):
    """The inner object of the `{"data": {"sentence": ...}}` form."""

    model_config = ConfigDict(extra="forbid")

    sentence: str


# Spelt out, because OpenAPI resolves references from the root of its document and not of this schema.
InlineSentence = Annotated[
    Sentence,
    WithJsonSchema({"type": "object", "properties": {"sentence": {"type": "string"}}, "required": ["sentence"]}),
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
            ]
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


class EndpointHealth(BaseModel):
    """How an endpoint is; asking wakes nothing."""

    name: str
    state: State
    replicas: int = Field(description="Replicas that answer.")
    model: str = Field(description="The registered model.")
    version: int | None = Field(description="The version that answers; null until the registry has been reached.")
    problem: str | None = Field(None, description="Why the registry could not be asked just now.")


class GatewayHealth(BaseModel):
    """The gateway and its endpoints."""

    status: Literal["ok"] = "ok"
    endpoints: list[EndpointHealth]


class Problem(BaseModel):
    """The body of every answer that is not 200."""

    error: str


def parse_request(body: bytes) -> ClassifyRequest:
    """The request in `body`, whatever its content type says. Raises `ValueError` with one line for each mistake."""
    try:
        return ClassifyRequest.model_validate_json(body)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(dict(detail)) for detail in error.errors(include_url=False))) from error


def _explain(detail: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")  # what pydantic puts before our own words
    return f"{where}: {message}" if where else message
