import math
from typing import Any

import pytest

from tests.fake_backend import FakeBackend, ask

RANKED = [{"label": "good", "score": 0.75}, {"label": "bad", "score": 0.25}]


def answer(body: dict[str, Any], backend: FakeBackend | None = None) -> Any:
    response = ask("POST", "/news", backend, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_text_gets_its_labels_the_likeliest_first() -> None:
    assert answer({"inputs": "a"}) == [RANKED]
    assert answer({"inputs": "a", "parameters": {}}) == [RANKED]
    assert answer({"inputs": "a", "parameters": None}) == [RANKED]


def test_each_of_several_texts_gets_its_own_list() -> None:
    backend = FakeBackend()

    assert answer({"inputs": ["a", "b"]}, backend) == [RANKED, RANKED]
    assert backend.batches == [("news", 1, ["a", "b"])]


@pytest.mark.parametrize(("top_k", "num_labels"), [(1, 1), (2, 2), (9, 2), (None, 2)])
def test_top_k_bounds_the_labels(top_k: int | None, num_labels: int) -> None:
    assert answer({"inputs": "a", "parameters": {"top_k": top_k}}) == [RANKED[:num_labels]]


@pytest.mark.parametrize(
    ("function", "scores"),
    [
        (None, [0.75, 0.25]),
        ("softmax", [0.75, 0.25]),
        ("none", [0.5, -1.0]),
        ("sigmoid", [1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(1.0))]),
    ],
)
def test_scores_are_what_the_function_makes_of_the_logits(function: str | None, scores: list[float]) -> None:
    (found,) = answer({"inputs": "a", "parameters": {"function_to_apply": function}})

    assert [label["score"] for label in found] == pytest.approx(scores)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "inputs: expected a list of strings and not null"),
        ({"inputs": 1}, "inputs: expected a list of strings and not number"),
        ({"inputs": ["a", None]}, "inputs[1]: expected a string and not null"),
        ({"inputs": "a", "options": {}}, "'options' is not known here; known: inputs, parameters"),
        ({"inputs": "a", "parameters": []}, "parameters: expected an object and not array"),
        ({"inputs": "a", "parameters": {"top": 1}}, "parameters: 'top' is not known here; known: top_k"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "top_k is 0; give a whole number from 1 on"),
        ({"inputs": "a", "parameters": {"top_k": True}}, "top_k is True"),
        ({"inputs": "a", "parameters": {"top_k": 1.5}}, "top_k is 1.5"),
        ({"inputs": "a", "parameters": {"function_to_apply": "relu"}}, "'relu'; give one of softmax, sigmoid, none"),
        ({"inputs": "a", "parameters": {"function_to_apply": {}}}, "function_to_apply is {}"),
    ],
)
def test_what_is_not_known_is_refused_by_name(body: dict[str, Any], problem: str) -> None:
    backend = FakeBackend()
    response = ask("POST", "/news", backend, json=body)

    assert response.status_code == 422
    assert problem in response.json()["error"]
    assert backend.batches == []
