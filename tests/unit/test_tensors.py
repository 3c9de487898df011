import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from serve.exchange import RefusedError
from serve.protocols.tensors import Tensor, pack_bytes, read_texts, unpack_bytes

TEXTS = st.lists(st.text(st.characters(codec="utf-8")), max_size=8)


@given(TEXTS)
def test_texts_come_back_as_they_were(texts: list[str]) -> None:
    assert unpack_bytes(pack_bytes(texts), "x") == texts


@given(TEXTS.filter(bool))
def test_the_bytes_are_those_of_tritons_client(texts: list[str]) -> None:
    array = np.array([text.encode() for text in texts], dtype=object)

    assert pack_bytes(texts) == serialize_byte_tensor(array).item()
    assert [item.decode() for item in deserialize_bytes_tensor(pack_bytes(texts))] == texts


@given(st.binary(max_size=40))
def test_any_bytes_are_either_texts_or_refused(raw: bytes) -> None:
    with contextlib.suppress(RefusedError):
        assert pack_bytes(unpack_bytes(raw, "x")) == raw


@given(TEXTS.filter(bool), st.data())
def test_bytes_that_end_early_are_refused(texts: list[str], data: Any) -> None:
    raw = pack_bytes(texts)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    given_tensor = {"datatype": "BYTES", "shape": [len(texts)], "parameters": {"binary_data_size": len(cut)}}

    with pytest.raises(RefusedError):
        read_texts(given_tensor, cut, "x")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\1\0\0", "element 0 is cut off"),
        (b"\2\0\0\0a", "element 0 has 2 bytes and 1 are left"),
        (b"\0\0\0\0\xff\xff\xff\xffa", "element 1 has 4294967295 bytes and 1 are left"),
        (b"\1\0\0\0\xff", "element 0 is not UTF-8"),
        (b"\3\0\0\0\xed\xa0\x80", "element 0 is not UTF-8"),  # a lone surrogate
    ],
)
def test_what_is_wrong_with_the_bytes_is_told(raw: bytes, problem: str) -> None:
    with pytest.raises(RefusedError, match=problem):
        unpack_bytes(raw, "x")


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=6))
def test_scores_are_little_endian_floats(scores: list[float]) -> None:
    described, raw = Tensor("score", "FP32", (len(scores),), scores).as_binary()

    assert np.frombuffer(raw, "<f4").tolist() == scores
    assert described["parameters"] == {"binary_data_size": 4 * len(scores)}
