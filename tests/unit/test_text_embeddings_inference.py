from dataclasses import dataclass
from typing import Any

import pytest

from common.errors import ServingError, TrackingError
from common.model_settings import ModelSettings
from serve.batching import Answer, ServedVersion, Text
from tests.fake_backend import REPLICAS_ANSWER, FakeBackend, ask

RANKED = [{"score": 0.75, "label": "good"}, {"score": 0.25, "label": "bad"}]


@pytest.mark.parametrize(
    ("inputs", "texts", "answer"),
    [
        ("a", ["a"], RANKED),
        (["a"], ["a"], RANKED),
        (["a", "b"], [("a", "b")], RANKED),
        (["", "b"], [("", "b")], RANKED),
        ([["a"], ["b"]], ["a", "b"], [RANKED, RANKED]),
        ([["a", "b"]], [("a", "b")], [RANKED]),
        ([["a"], ["b", "c"]], ["a", ("b", "c")], [RANKED, RANKED]),
    ],
)
def test_a_text_a_pair_and_a_batch_are_told_apart(inputs: Any, texts: list[Text], answer: Any) -> None:
    backend = FakeBackend()

    response = ask("POST", "/news/predict", backend, json={"inputs": inputs, "truncate": None})

    assert (response.status_code, response.json()) == (200, answer)
    assert backend.batches == [("news", 1, texts)]


def test_raw_scores_are_logits() -> None:
    response = ask("POST", "/news/predict", json={"inputs": "a", "raw_scores": True})

    assert response.json() == [{"score": 0.5, "label": "good"}, {"score": -1.0, "label": "bad"}]


@dataclass
class Cutting(FakeBackend):
    """Its model cuts texts off after three characters."""

    async def classify(self, name: str, served: ServedVersion, texts: list[Text]) -> list[Answer]:
        return [{**REPLICAS_ANSWER, "truncated": len(text) > 3} for text in texts]


@pytest.mark.parametrize(
    ("text", "truncate", "status"),
    [("abcd", True, 200), ("abcd", None, 200), ("abc", False, 200), ("abcd", False, 422)],
)
def test_a_long_text_is_cut_or_refused_as_asked(text: str, truncate: bool | None, status: int) -> None:
    response = ask("POST", "/news/predict", Cutting(), json={"inputs": [[text]], "truncate": truncate})

    assert response.status_code == status
    if status == 422:
        assert response.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("body", "status", "kind", "problem"),
    [
        ({}, 422, "Validation", "not null"),
        ({"inputs": ""}, 400, "Empty", "cannot be empty"),
        ({"inputs": [["a"], ["", ""]]}, 400, "Empty", "cannot be empty"),
        ({"inputs": []}, 422, "Validation", "an empty array"),
        ({"inputs": [[]]}, 422, "Validation", "inputs[0]: expected one string or a pair, and not 0"),
        ({"inputs": ["a", "b", "c"]}, 422, "Validation", "and not 3"),
        ({"inputs": ["a", 1]}, 422, "Validation", "inputs[1]: expected a string and not number"),
        ({"inputs": [["a"], "b"]}, 422, "Validation", "inputs[1]: expected a list of strings and not string"),
        ({"inputs": "a", "raw_scores": 1}, 422, "Validation", "raw_scores: expected true or false and not number"),
        ({"inputs": "a", "truncation_direction": "Left"}, 422, "Validation", "'Left'"),
        ({"inputs": "a", "normalize": True}, 422, "Validation", "'normalize' is not known here"),
    ],
)
def test_errors_have_the_type_that_clients_look_at(body: dict[str, Any], status: int, kind: str, problem: str) -> None:
    backend = FakeBackend()
    response = ask("POST", "/news/predict", backend, json=body)

    assert (response.status_code, response.json()["error_type"]) == (status, kind)
    assert problem in response.json()["error"]
    assert backend.batches == []


@pytest.mark.parametrize(
    ("backend", "status", "kind"),
    [
        (FakeBackend(replica_error=ServingError("x")), 424, "Backend"),
        (FakeBackend(registry_error=TrackingError("x")), 503, "Unhealthy"),
    ],
)
def test_failures_have_theirs(backend: FakeBackend, status: int, kind: str) -> None:
    response = ask("POST", "/news/predict", backend, json={"inputs": "a"})

    assert (response.status_code, response.json()["error_type"]) == (status, kind)


def test_info_and_health_tell_of_the_model_and_wake_nothing() -> None:
    backend = FakeBackend(version=3)
    info = ask("GET", "/news/info", backend).json()

    assert info["model_id"] == "headlines"
    assert info["model_sha"] == "3"
    assert info["model_type"] == {
        "classifier": {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    }
    assert (info["max_input_length"], info["max_client_batch_size"], info["auto_truncate"]) == (64, 8, True)
    health = ask("GET", "/news/health", backend)
    assert (health.status_code, health.content, health.headers["X-Model-Version"]) == (200, b"", "3")
    assert backend.batches == []


@dataclass
class Unreadable(FakeBackend):
    async def settings(self, served: ServedVersion) -> ModelSettings:
        raise ServingError("version 1 at s3://models cannot be read")


def test_info_and_health_tell_what_is_missing() -> None:
    info = ask("GET", "/news/info", Unreadable())
    health = ask("GET", "/news/health", FakeBackend(registry_error=TrackingError("http://away does not answer")))

    assert (info.status_code, health.status_code) == (503, 503)
    assert info.json() == {"error": "version 1 at s3://models cannot be read", "error_type": "Unhealthy"}
    assert "http://away" in health.json()["error"]
