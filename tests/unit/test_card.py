"""What `GET /<name>/card` tells of the model that answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ServingError, TrackingError
from serve.batching import ServedVersion
from serve.card import metrics_in, split_front_matter
from serve.endpoints import EndpointSpec
from tests.fake_backend import FakeBackend, ask
from tests.unit.test_model_card import card


def test_the_card_that_promotion_writes_is_read_and_no_replica_is_reached() -> None:
    backend = FakeBackend(model_card=card())
    response = ask("GET", "/news/card", backend)
    found = response.json()
    text = found.pop("text")

    assert response.status_code == 200
    assert response.headers["X-Model-Version"] == "1"
    assert found == {
        "name": "news",
        "model": "headlines",
        "version": 1,
        "labels": ["bad", "good"],
        "max_length": 64,
        "precision": "int8",
        "base_model": "org/encoder",
        "metrics": {"accuracy": 0.9, "macro_f1": 0.85},
    }
    assert text.startswith("# sms-spam\n")
    assert backend.batches == []


def test_a_version_without_a_card_tells_what_its_files_say() -> None:
    found = ask("GET", "/news/card").json()

    assert (found["text"], found["base_model"], found["metrics"]) == (None, None, {})
    assert found["labels"] == ["bad", "good"]


def test_while_no_version_is_known_the_reason_is_told() -> None:
    response = ask("GET", "/news/card", FakeBackend(registry_error=TrackingError("http://away does not answer")))

    assert response.status_code == 503
    assert "http://away does not answer" in response.json()["error"]


def test_a_card_that_cannot_be_read_is_an_error_and_not_an_empty_one() -> None:
    class Away(FakeBackend):
        async def card(self, spec: EndpointSpec, served: ServedVersion) -> str | None:
            raise ServingError("the card of version 1 of 'headlines' cannot be read: away")

    response = ask("GET", "/news/card", Away())

    assert (response.status_code, response.json()["error"]) == (
        503,
        "the card of version 1 of 'headlines' cannot be read: away",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# title", ({}, "# title")),
        ("---\na: 1\n---\n\n# title\n", ({"a": 1}, "# title")),
        ("---\na: 1\n", ({}, "---\na: 1\n")),
        ("---\n[1\n---\nbody", ({}, "body")),
        ("---\n- 1\n---\nbody", ({}, "body")),
        ("---\na: 2026-99-99\n---\nbody", ({}, "body")),
        ("---\na: !!python/object/apply:os.getcwd []\n---\nbody", ({}, "body")),
        ("", ({}, "")),
    ],
)
def test_front_matter_is_whatever_object_stands_before_the_text(text: str, expected: object) -> None:
    assert split_front_matter(text) == expected


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["results", "metrics", "type", "value"]), inner, max_size=4)
    ),
)


@given(index=_VALUES)
def test_whatever_a_model_index_holds_only_finite_numbers_with_a_name_come_out(index: object) -> None:
    for name, value in metrics_in({"model-index": index}).items():
        assert isinstance(name, str)
        assert abs(value) < float("inf")


_YAMLISH = st.text(alphabet="-\n:{[&*!a1 \t\x00\ud7ff")


@given(text=_YAMLISH | _YAMLISH.map("---\n{}\n---\n".format))
def test_no_card_fails(text: str) -> None:
    split_front_matter(text)
