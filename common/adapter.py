"""What a model has of its own when its base model is one that others have too: low-rank adapters and a head.

Beside the base model's `model.onnx`, whose graph takes them as inputs, they lie in `adapter.npz`. So one session in
memory answers for all adapters on a base model, each of which adds its own few megabytes.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from common.errors import ModelError

ADAPTER_FILE = "adapter.npz"

_BASE = "base_sha256"

Tensors = Mapping[str, npt.NDArray[np.float32]]
"""Adapters and head, by the name of the graph's input that each fills."""


@dataclass(frozen=True)
class Adapter:
    """An adapter and which base model it belongs to."""

    base: str
    """sha256 (hex) of the `model.onnx` whose inputs these are."""
    tensors: Tensors

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The adapter in `folder`; None when the model there is a whole one. Raises `ModelError` for a broken file."""
        with _opened(folder) as file:
            if file is None:
                return None
            return cls(str(file[_BASE]), {name: file[name] for name in file.files if name != _BASE})

    def write(self, folder: Path) -> None:
        """Writes it beside its base model."""
        np.savez(folder / ADAPTER_FILE, **{_BASE: np.array(self.base)}, **self.tensors)  # type: ignore[arg-type]

    def check_inputs(self, shapes: Mapping[str, list[Any]], folder: Path) -> None:
        """Raises `ModelError` when a base model's inputs (numbers, or names of free dimensions) are others."""
        fits = shapes.keys() == self.tensors.keys() and all(
            len(shape) == tensor.ndim
            and all(isinstance(wanted, str) or wanted == size for wanted, size in zip(shape, tensor.shape, strict=True))
            for shape, tensor in ((shapes[name], self.tensors[name]) for name in shapes)
        )
        if not fits:
            raise ModelError(f"{folder}: {ADAPTER_FILE} does not fit the inputs of its model; promote the model again")


def base_digest(path: Path) -> str:
    """What tells a base model from every other: sha256 (hex) of its `model.onnx`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def base_of(folder: Path) -> str | None:
    """Which base model the adapter in `folder` belongs to, read without the rest of it; None of a whole model.

    Raises `ModelError` for a broken file.
    """
    with _opened(folder) as file:
        return None if file is None else str(file[_BASE])


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    path = folder / ADAPTER_FILE
    if not path.is_file():
        yield None
        return
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except (EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
        raise ModelError(f"{path} is not an adapter that can be read ({error}); promote the model again") from error
