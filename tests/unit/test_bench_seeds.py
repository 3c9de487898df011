"""What the benchmark of the workflows makes of what it saw, and which rows both ways get."""

from pathlib import Path

import pyarrow.parquet
import pytest

from common.dataset import load_splits
from common.recipe_file import load_recipe, shipped_recipes
from scripts.bench_seeds import Scores, Way, figures, write_splits


def test_each_figure_is_ours_beside_theirs() -> None:
    """Theirs tried three configurations in 300 s; ours three in 30 s, and twelve in 60 s."""
    theirs = Way(3, (Scores(0.90, 0.80), Scores(0.92, 0.84)), (300.0,), wake_s=8.0, requests_per_s=20.0)
    same = Way(3, (Scores(0.91, 0.83), Scores(0.91, 0.83)), (20.0, 40.0))
    full = Way(12, (Scores(0.94, 0.90), Scores(0.96, 0.92)), (50.0, 70.0), wake_s=0.2, requests_per_s=200.0)
    found = {figure.name: figure for figure in figures("sms", theirs, same, full)}
    expected = {
        "sms_accuracy_same": (0.91, 0.91),
        "sms_accuracy_full": (0.95, 0.91),
        "sms_macro_f1_same": (0.83, 0.82),
        "sms_macro_f1_full": (0.91, 0.82),
        "sms_configurations": (12, 3),
        "sms_seconds_same": (30, 300),
        "sms_seconds_full": (60, 300),
        "sms_seconds_a_configuration": (5, 100),
        "sms_wake_s": (0.2, 8),
        "sms_requests_per_s": (200, 20),
    }
    assert {name: pytest.approx(pair) for name, pair in expected.items()} == {
        name: (figure.value, figure.baseline) for name, figure in found.items()
    }
    assert found["sms_seconds_same"].ratio == pytest.approx(10)
    assert found["sms_wake_s"].ratio == pytest.approx(40)


def test_both_ways_get_the_same_rows_drawn_from_all_of_a_split(tmp_path: Path) -> None:
    given = ["data.source=builtin:finance_headlines", "data.split.validation=0.25", "model.base=builtin:tiny_bert"]
    recipe_file = shipped_recipes()["quickstart"]
    recipe = load_recipe(recipe_file, given)
    overrides = write_splits(recipe, tmp_path, rows=100, test_rows=20)
    written = load_recipe(recipe_file, [*given, *overrides]).data
    paths = {"train": written.source, "validation": written.validation_source, "test": written.test_source}
    rows = {split: pyarrow.parquet.read_table(path) for split, path in paths.items()}
    assert {split: table.num_rows for split, table in rows.items()} == {"train": 75, "validation": 25, "test": 20}
    all_texts = load_splits(recipe.data).train["text"].to_pylist()
    places = [all_texts.index(text) for text in rows["train"]["text"].to_pylist()]
    assert places == sorted(places)
    assert places[-1] > len(all_texts) / 2
