"""Measuring a few real steps."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from common.dataset import load_splits
from common.recipe_file import load_recipe, shipped_recipes
from tune.measure import NUM_STEPS, Measurement, mean_of, measure, sample


def test_a_few_steps_are_timed_at_each_batch_size_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    recipe = load_recipe(shipped_recipes()["quickstart"], ["model.max_length=16"])
    rows = sample(load_splits(recipe.data), (4, 8))
    assert rows.train.num_rows == 8 * NUM_STEPS
    small, large = measure(recipe, rows, (4, 8), cpus_per_worker=1, use_gpu=False)
    assert (small.batch_size, large.batch_size) == (4, 8)
    for found in (small, large):
        assert 0 < found.train_s_per_row < 1
        assert found.checkpoint_s > 0
        assert found.running_bytes > 2 * found.finished_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_workers_that_measured_together_count_by_their_mean() -> None:
    def measured(train_s_per_row: float, num_bytes: int) -> list[Measurement]:
        return [Measurement(size, train_s_per_row * size, 0.1, 1.0, 2.0, num_bytes, 5) for size in (4, 8)]

    assert mean_of([measured(1.0, 10), measured(3.0, 13)]) == measured(2.0, 12)


def test_the_sample_holds_the_longest_and_the_shortest_texts() -> None:
    recipe = load_recipe(shipped_recipes()["quickstart"])
    splits = load_splits(recipe.data)
    rows = sample(splits, (8,))
    for split in ("train", "validation"):
        lengths, all_lengths = ([len(text) for text in table[split]["text"].to_pylist()] for table in (rows, splits))
        assert (max(lengths), min(lengths)) == (max(all_lengths), min(all_lengths))
    assert isinstance(rows.train, pa.Table)
