import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import serve.bodies
from serve.bodies import LARGE_BYTES, MAX_MARKS, has_too_many_values, off_loop
from serve.exchange import MAX_BODY_BYTES, MAX_MESSAGE_CHARS, MAX_TEXT_CHARS
from tests.fake_backend import ask

JSON = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a",\\[{]}:\n'), max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text("a", max_size=3), inner, max_size=4),
    max_leaves=20,
)


def num_marks(value: object) -> int:
    """By the definition: strings, brackets that open, and commas."""
    if isinstance(value, str):
        return 1
    if isinstance(value, list):
        return 1 + max(0, len(value) - 1) + sum(map(num_marks, value))
    if isinstance(value, dict):
        return 1 + max(0, len(value) - 1) + sum(1 + num_marks(item) for item in value.values())
    return 0


@given(value=JSON, is_ascii=st.booleans())
def test_the_values_of_any_json_are_counted_and_what_its_texts_hold_is_not(value: object, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    marks = num_marks(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve.bodies, "LARGE_BYTES", -1)
        patch.setattr(serve.bodies, "MAX_MARKS", marks)
        assert not has_too_many_values(body)
        patch.setattr(serve.bodies, "MAX_MARKS", marks - 1)
        assert has_too_many_values(body)


def test_large_bodies_are_parsed_in_a_thread_and_small_ones_where_they_are() -> None:
    def thread(body: bytes) -> int:
        return threading.get_ident()

    async def both() -> list[bool]:
        here = threading.get_ident()
        return [await off_loop(thread, b"x" * size) == here for size in (LARGE_BYTES, LARGE_BYTES + 1)]

    assert asyncio.run(both()) == [True, False]


@pytest.mark.parametrize("unit", [b"1,", b"{},", b'"",', b"[],"])
@pytest.mark.parametrize("path", ["/news/classify", "/news", "/news/predict", "/news/invocations"])
def test_a_body_of_a_million_values_is_refused_in_few_words(path: str, unit: bytes) -> None:
    body = b'{"inputs":[' + unit * ((MAX_BODY_BYTES - 20) // len(unit)) + b"1]}"

    response = ask("POST", path, content=body)

    assert response.status_code == 413
    assert f"more than {MAX_MARKS} values" in response.text
    assert len(response.text) < 300


@pytest.mark.parametrize("item", ["1", '"a":1', "{}"])
def test_of_thousands_of_mistakes_the_first_is_told(item: str) -> None:
    items = ",".join([item] * 9000)
    body = f'{{"texts":[{items}]}}' if ":" not in item else f'{{"data":{{{items}}}}}'

    response = ask("POST", "/news/classify", content=body.encode())

    assert response.status_code == 422
    assert len(response.text) < 300


@pytest.mark.parametrize("path", ["/news/classify", "/news", "/news/predict", "/news/invocations"])
def test_a_name_as_long_as_the_body_is_not_sent_back(path: str) -> None:
    response = ask("POST", path, json={"x" * 1_000_000: 1})

    assert response.status_code in (400, 422)
    assert len(response.text) < 2 * MAX_MESSAGE_CHARS


def test_long_texts_full_of_commas_are_no_mass_of_values() -> None:
    texts = ['a, [b], {c}, "d" ' * (MAX_TEXT_CHARS // 20)] * 8

    assert ask("POST", "/news/classify", json={"texts": texts}).status_code == 200
