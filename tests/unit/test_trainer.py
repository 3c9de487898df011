"""The parts of a fine-tuning under Ray Train that need no cluster."""

import os

import pytest

from tune import trainer
from tune.trainer import checkpoint_uri


def test_a_checkpoint_is_named_by_its_epoch() -> None:
    assert checkpoint_uri("s3://bucket/train/", "trial-4", 12.0) == "s3://bucket/train/trial-4/epoch-0012"


def test_ray_trains_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TRAIN_OF_A_TEST", raising=False)
    with trainer._set({"RAY_TRAIN_OF_A_TEST": "7"}):
        assert os.environ["RAY_TRAIN_OF_A_TEST"] == "7"
    assert "RAY_TRAIN_OF_A_TEST" not in os.environ
