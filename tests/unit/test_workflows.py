"""The shipped recipes on data and models of exactly the shape that theirs have, from the Hub's cache, one epoch."""

import shutil
from pathlib import Path

import datasets
import pytest
import torch

from common.base_model import hub_folder
from common.dataset import Splits, load_splits
from common.head_labels import keeps_head
from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from common.tokenised import prepare
from tests.hub_cache import go_offline
from tests.hub_workflows import NUM_ROWS, SENTIMENTS, put_finbert, put_news, put_sms, put_tweets, write_phrasebank
from tune.checkpoint import MANIFEST_FILE
from tune.pretrained import load_base
from tune.train_loop import train
from tune.trainer import loop_config


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    go_offline(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub_folder.cache_clear()
    torch.manual_seed(0)
    return tmp_path / "hub"


def trained(recipe: Recipe, splits: Splits, folder: Path) -> set[str]:
    """The files of the checkpoint after one epoch by the recipe."""
    prepared = prepare(recipe, splits, str(folder / "storage"))
    settings = recipe.train.model_copy(update={"epochs": 1})
    files: set[str] = set()

    def keep(metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        files.update(file.name for file in checkpoint.iterdir())

    train(loop_config(prepared, settings, 1, recipe.model.lora), keep)
    return files


def test_finbert_news_reads_titles_and_starts_from_finberts_own_outputs_by_name(cache: Path, tmp_path: Path) -> None:
    finbert = put_news(cache, tmp_path)
    recipe = load_recipe(shipped_recipes()["finbert_news"])

    splits = load_splits(recipe.data)

    assert splits.labels == SENTIMENTS
    assert splits.test.num_rows == 9
    assert all(title.endswith(" title") for title in splits.train.column("text").to_pylist())
    assert keeps_head(recipe.model, splits.labels)
    theirs = torch.load(finbert / "pytorch_model.bin", weights_only=True)["classifier.weight"]
    ours = load_base(prepare(recipe, splits, str(tmp_path / "storage"))).get_parameter("classifier.weight")
    assert torch.equal(ours, theirs[[1, 2, 0]])
    assert {"model.safetensors", "tokenizer.json", MANIFEST_FILE} <= trained(recipe, splits, tmp_path)


def test_financial_phrasebank_reads_the_published_file_as_it_is(cache: Path, tmp_path: Path) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    shutil.copy(shipped_recipes()["financial_phrasebank"], recipe_file)
    write_phrasebank(tmp_path)
    put_finbert(cache, tmp_path)
    recipe = load_recipe(recipe_file)

    splits = load_splits(recipe.data)

    assert splits.labels == SENTIMENTS
    assert sum(rows.num_rows for rows in (splits.train, splits.validation, splits.test)) == NUM_ROWS
    assert all(found.startswith("Seppälä , ") for found in splits.train.column("text").to_pylist())
    assert keeps_head(recipe.model, splits.labels)
    assert "model.safetensors" in trained(recipe, splits, tmp_path)


def test_sms_spam_reads_the_hubs_messages_and_class_names(cache: Path, tmp_path: Path) -> None:
    put_sms(cache, tmp_path)
    recipe = load_recipe(shipped_recipes()["sms_spam"])

    splits = load_splits(recipe.data)

    assert splits.labels == ("ham", "spam")
    assert not keeps_head(recipe.model, splits.labels)
    assert "model.safetensors" in trained(recipe, splits, tmp_path)


def test_finance_tweets_names_the_numbers_takes_the_ready_split_and_stores_adapters_alone(
    cache: Path, tmp_path: Path
) -> None:
    put_tweets(cache, tmp_path)
    recipe = load_recipe(shipped_recipes()["finance_tweets_lora"])

    splits = load_splits(recipe.data)

    assert splits.labels == ("bearish", "bullish", "neutral")
    assert splits.validation.num_rows == 9
    assert splits.validation.column("label").to_pylist()[:3] == ["bearish", "bullish", "neutral"]
    stored = trained(recipe, splits, tmp_path)
    assert "adapter_model.safetensors" in stored
    assert "model.safetensors" not in stored
