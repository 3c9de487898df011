"""Tensors of the Open Inference Protocol, as JSON and in the binary extension.

The extension: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from serve.exchange import RefusedError, kind, settings

_LENGTH = struct.Struct("<I")
"""What stands before each element of a BYTES tensor."""


@dataclass(frozen=True)
class Tensor:
    """An output: `values` are flat, in row-major order."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: tuple[int, ...]
    values: Sequence[Any]

    def described(self) -> dict[str, Any]:
        """Name, datatype and shape."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def as_json(self) -> dict[str, Any]:
        """The tensor with its values."""
        return {**self.described(), "data": list(self.values)}

    def as_binary(self) -> tuple[dict[str, Any], bytes]:
        """The tensor without its values, and these as bytes."""
        raw = (
            pack_bytes(self.values) if self.datatype == "BYTES" else struct.pack(f"<{len(self.values)}f", *self.values)
        )
        return {**self.described(), "parameters": {"binary_data_size": len(raw)}}, raw


def pack_bytes(texts: Sequence[str]) -> bytes:
    """A BYTES tensor: each text in UTF-8, behind its length in four bytes."""
    encoded = [text.encode() for text in texts]
    return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))


def unpack_bytes(raw: bytes, where: str) -> list[str]:
    """The texts of a BYTES tensor. Raises `RefusedError` when the lengths do not fit or an element is not UTF-8."""
    texts: list[str] = []
    start = 0
    while start < len(raw):
        begin = start + _LENGTH.size
        if begin > len(raw):
            raise RefusedError(422, f"{where}: element {len(texts)} is cut off: a length takes {_LENGTH.size} bytes")
        (length,) = _LENGTH.unpack_from(raw, start)
        start = begin + length
        if start > len(raw):
            raise RefusedError(422, f"{where}: element {len(texts)} has {length} bytes and {len(raw) - begin} are left")
        try:
            texts.append(raw[begin:start].decode())
        except UnicodeDecodeError as error:
            raise RefusedError(
                422, f"{where}: element {len(texts)} is not UTF-8 ({error.reason}); encode it so"
            ) from None
    return texts


def read_texts(tensor: dict[str, Any], raw: bytes, where: str) -> list[str]:
    """The texts of an input of shape [N] or [N, 1]; `raw` is the binary part of the request.

    Raises `RefusedError` for another shape or datatype, and when data and shape do not fit.
    """
    if tensor.get("datatype") != "BYTES":
        raise RefusedError(422, f"{where}: its datatype is {tensor.get('datatype')!r}; texts are BYTES")
    num_texts = _num_texts(tensor.get("shape"), where)
    size = settings(tensor.get("parameters"), f"{where}: parameters", ("binary_data_size",)).get("binary_data_size")
    if size is None:
        if raw:
            raise RefusedError(422, f"{where}: {len(raw)} binary bytes follow; say so in parameters.binary_data_size")
        texts = _flat_strings(tensor.get("data"), where)
    elif "data" in tensor or size != len(raw):
        raise RefusedError(
            422, f"{where}: binary_data_size is {size!r} and {len(raw)} bytes follow; give no data beside them"
        )
    else:
        texts = unpack_bytes(raw, where)
    if len(texts) != num_texts:
        raise RefusedError(422, f"{where}: its shape says {num_texts} texts and its data holds {len(texts)}")
    return texts


def _num_texts(shape: Any, where: str) -> int:
    is_list = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not is_list or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise RefusedError(422, f"{where}: its shape is {shape!r}; give [N] or [N, 1] for N texts")
    return int(shape[0])


def _flat_strings(data: Any, where: str) -> list[str]:
    if not isinstance(data, list):
        raise RefusedError(422, f"{where}: its data is {kind(data)}; give an array of strings")
    flat = [item for row in data for item in (row if isinstance(row, list) else [row])]
    for item in flat:
        if not isinstance(item, str):
            raise RefusedError(422, f"{where}: its data holds {kind(item)}; give an array of strings")
    return flat
