from pathlib import Path

import fsspec
import pytest

from common.model_settings import ModelSettings
from tests.tiny_model import build_engine


def test_a_models_settings_are_read_without_loading_it(tmp_path: Path) -> None:
    folder = build_engine(tmp_path)
    (folder / "model.onnx").unlink()

    assert ModelSettings.read(str(folder)) == ModelSettings(("bad", "good"), 64, 0, "fp32")
    assert ModelSettings.read(folder.as_uri()).labels == ("bad", "good")


def test_of_a_remote_model_one_file_is_read(tmp_path: Path) -> None:
    remote = fsspec.filesystem("memory")
    remote.put(str(build_engine(tmp_path) / "labels.json"), "memory://settings/labels.json")

    assert ModelSettings.read("memory://settings").max_length == 64


def test_a_model_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"labels\.json"):
        ModelSettings.read(str(tmp_path))
