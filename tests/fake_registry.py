"""A model registry that says what it was asked for."""

from pathlib import Path
from typing import Any

from common.registry import ModelVersion
from tests.tiny_model import build_engine

Asked = list[tuple[str, str | int]]
"""Name and alias or version of each question."""


def fake_registry(storage: Path) -> tuple[type[Any], Asked]:
    """A class to put in the place of `ModelRegistry`, and its questions; every version is the tiny model.

    It holds its users to the default tracking server and the models' place of `storage`.
    """
    asked: Asked = []

    class Registry:
        def __init__(self, tracking_uri: str) -> None:
            assert tracking_uri == f"sqlite:///{storage}/mlflow.db"

        def by_alias(self, name: str, alias: str) -> ModelVersion:
            asked.append((name, alias))
            return ModelVersion(name, 7, "uri", "run")

        def by_version(self, name: str, version: int) -> ModelVersion:
            asked.append((name, version))
            return ModelVersion(name, version, "uri", "run")

        def fetchable_uri(self, version: ModelVersion, storage_of_models: str) -> str:
            assert storage_of_models == str(storage)
            return str(build_engine(storage.parent / "engine"))

    return Registry, asked
