"""What the benchmarks of adapters make of what they saw."""

from pathlib import Path

import pytest

from scripts.bench_lora import figures
from scripts.contest import Outcome
from scripts.held_models import Held, held_by, measure
from tests.tiny_model import build_adapter, build_engine


def test_each_figure_is_the_adapters_beside_the_whole_models() -> None:
    """Two seeds: adapters take 2 s for 100 texts and the whole model 4 s."""
    pairs = [
        (Outcome(2.0, accuracy, accuracy, 1_000_000), Outcome(4.0, 0.98, 0.98, 90_000_000)) for accuracy in (0.96, 0.98)
    ]
    found = {figure.name: figure for figure in figures(pairs, share=0.01, num_samples=100)}
    assert (found["lora_accuracy"].value, found["lora_accuracy"].baseline) == pytest.approx((0.97, 0.98))
    assert found["lora_trained_share"].ratio == pytest.approx(100)
    assert found["lora_checkpoint_mb"].ratio == pytest.approx(90)
    assert (found["lora_samples_per_s"].value, found["lora_samples_per_s"].ratio) == pytest.approx((50, 2))


def test_models_are_measured_in_a_process_of_their_own(tmp_path: Path) -> None:
    folders = [build_engine(tmp_path / "whole"), build_adapter(tmp_path / "adapter")]
    texts = ["good", "bad good"]
    for held in (held_by(folders, texts), measure(folders, texts)):
        assert isinstance(held, Held)
        assert held.load_s > 0
        assert held.text_ms >= 0
