"""`labels.json`: what a servable model says of itself, readable without loading it."""

import json
from dataclasses import dataclass
from typing import Self

from common.location import filesystem, join

LABELS_FILE = "labels.json"
ONNX_FOLDER = "onnx"
"""Where a registered model keeps its export."""
WEIGHTS_FOLDER = "model"
"""Where MLflow keeps the weights of a transformers model, in the same place."""


def weights_beside(uri: str) -> str:
    """The folder with the weights of the model whose export is in the folder `uri`."""
    return join(uri.rstrip("/").removesuffix(f"/{ONNX_FOLDER}"), WEIGHTS_FOLDER)


@dataclass(frozen=True)
class ModelSettings:
    """The settings of an exported model; `labels` are in the order of its outputs."""

    labels: tuple[str, ...]
    max_length: int
    """Tokens; what a text has beyond them is cut off."""
    pad_token_id: int
    precision: str

    @classmethod
    def parse(cls, content: str | bytes) -> Self:
        """The settings in a `labels.json`."""
        found = json.loads(content)
        return cls(tuple(found["labels"]), found["max_length"], found["pad_token_id"], found["precision"])

    @classmethod
    def read(cls, uri: str) -> Self:
        """The settings of the model in the folder `uri`, a path or a URL. Raises `OSError` and `InputError`."""
        files, path = filesystem(join(uri, LABELS_FILE))
        with files.open_input_stream(path) as stream:
            return cls.parse(stream.read())
