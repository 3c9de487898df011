"""`GET /<name>/card`: what the model that answers says of itself; asking wakes nothing."""

import math
from typing import Any

import yaml
from fastapi import Response
from pydantic import BaseModel, Field

from serve.exchange import Exchange
from serve.protocols import native
from serve.routes import Routes, json_response

_MARK = "---\n"
"""Stands before and after a card's front matter."""


class Card(BaseModel):
    """The model that an endpoint answers with."""

    name: str = Field(description="The endpoint.")
    model: str = Field(description="The registered model.")
    version: int
    labels: list[str] = Field(description="In the order of the model's outputs.")
    max_length: int = Field(description="Tokens that the model reads of a text; the rest is cut off.")
    precision: str = Field(description="Of the exported model, which is what answers.")
    base_model: str | None = Field(description="What it was fine-tuned from, where its card says so.")
    metrics: dict[str, float] = Field(description="On the test split, where its card says so.")
    text: str | None = Field(description="The model card as Markdown; null where the version has none.")


def add_routes(routes: Routes) -> None:
    """`GET /{name}/card`."""
    answer = {"model": Card, "description": "The card, and what the model's files say."}
    routes.get(native.PROTOCOL, "/{name}/card", _card, "The model card", answer)


def split_front_matter(card: str) -> tuple[dict[str, Any], str]:
    """A model card's YAML front matter and its Markdown. What is no YAML object counts as none: cards are anybody's."""
    if not card.startswith(_MARK):
        return {}, card
    block, mark, body = card.removeprefix(_MARK).partition(f"\n{_MARK}")
    if not mark:
        return {}, card
    try:
        found = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that there is not
        found = None
    return (found if isinstance(found, dict) else {}), body.strip()


def metrics_in(front_matter: dict[str, Any]) -> dict[str, float]:
    """The numbers in its `model-index`, by metric: https://huggingface.co/docs/hub/model-cards#evaluation-results ."""
    metrics = {}
    for model in _objects(front_matter.get("model-index")):
        for result in _objects(model.get("results")):
            for metric in _objects(result.get("metrics")):
                name, value = metric.get("type"), metric.get("value")
                if isinstance(name, str) and isinstance(value, float | int) and math.isfinite(value):
                    metrics[name] = float(value)
    return metrics


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


async def _card(exchange: Exchange) -> Response:
    settings, text = await exchange.card()
    front_matter, body = split_front_matter(text or "")
    base_model = front_matter.get("base_model")
    assert exchange.version is not None, "a card is some version's"
    card = Card(
        name=exchange.endpoint.name,
        model=exchange.endpoint.spec.model,
        version=exchange.version,
        labels=list(settings.labels),
        max_length=settings.max_length,
        precision=settings.precision,
        base_model=base_model if isinstance(base_model, str) else None,
        metrics=metrics_in(front_matter),
        text=body or None,
    )
    return json_response(card)
