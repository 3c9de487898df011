"""The shipped recipes on data and models of exactly the shape that theirs have, from the Hub's cache, one epoch."""

import io
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from common.base_model import hub_folder
from common.dataset import Splits, load_splits
from common.head_labels import keeps_head
from common.recipe import Recipe
from common.recipe_file import load_recipe, shipped_recipes
from common.tokenised import prepare
from tests.hub_cache import cached, go_offline
from tests.small_bases import write_deberta, write_finbert
from tune.checkpoint import MANIFEST_FILE
from tune.pretrained import load_base
from tune.train_loop import train
from tune.trainer import loop_config

WORDS = ("profit", "loss", "steady", "rose", "fell", "sales", "the", "a")
SENTIMENTS = ("negative", "neutral", "positive")
NEWS_CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: data/train-*}, {split: test, path: data/test-*}]
dataset_info:
  features:
  - {name: summary_detail, dtype: string}
  - {name: title, dtype: string}
  - {name: summary_detail_with_title, dtype: string}
  - name: topic
    dtype: {class_label: {names: {'0': dividend, '1': other}}}
  - name: labels
    dtype: {class_label: {names: {'0': negative, '1': neutral, '2': positive}}}
---
"""
SMS_CARD = """---
configs:
- {config_name: plain_text, data_files: [{split: train, path: plain_text/train-*}], default: true}
dataset_info:
- config_name: plain_text
  features:
  - {name: sms, dtype: string}
  - name: label
    dtype: {class_label: {names: {'0': ham, '1': spam}}}
---
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    go_offline(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    hub_folder.cache_clear()
    torch.manual_seed(0)
    return tmp_path / "hub"


def text(row: int) -> str:
    return f"{WORDS[row % 3]} {WORDS[3 + row % 5]} {row}"


def parquet(**columns: object) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), written)
    return written.getvalue()


def put_model(cache: Path, name: str, folder: Path) -> None:
    cached(cache, "models", name, {file.name: file.read_bytes() for file in folder.iterdir()})


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


def news_rows(first: int, number: int) -> bytes:
    rows = range(first, first + number)
    texts = [text(row) for row in rows]
    return parquet(
        summary_detail=texts,
        title=[f"{each} title" for each in texts],
        summary_detail_with_title=texts,
        topic=[row % 2 for row in rows],
        labels=[row % 3 for row in rows],
    )


def test_finbert_news_reads_titles_and_starts_from_finberts_own_outputs_by_name(cache: Path, tmp_path: Path) -> None:
    files = {
        "data/train-00000-of-00001.parquet": news_rows(0, 120),
        "data/test-00000-of-00001.parquet": news_rows(200, 9),
    }
    cached(cache, "datasets", "Jean-Baptiste/financial_news_sentiment", {"README.md": NEWS_CARD.encode(), **files})
    put_model(cache, "ProsusAI/finbert", write_finbert(tmp_path / "finbert", WORDS))
    recipe = load_recipe(shipped_recipes()["finbert_news"])

    splits = load_splits(recipe.data)

    assert splits.labels == SENTIMENTS
    assert splits.test.num_rows == 9
    assert all(title.endswith(" title") for title in splits.train.column("text").to_pylist())
    assert keeps_head(recipe.model, splits.labels)
    theirs = torch.load(tmp_path / "finbert" / "pytorch_model.bin", weights_only=True)["classifier.weight"]
    ours = load_base(prepare(recipe, splits, str(tmp_path / "storage"))).get_parameter("classifier.weight")
    assert torch.equal(ours, theirs[[1, 2, 0]])
    assert {"model.safetensors", "tokenizer.json", MANIFEST_FILE} <= trained(recipe, splits, tmp_path)


def test_financial_phrasebank_reads_the_published_file_as_it_is(cache: Path, tmp_path: Path) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    shutil.copy(shipped_recipes()["financial_phrasebank"], recipe_file)
    rows = [f'{SENTIMENTS[row % 3]},"Seppälä , {text(row)}"' for row in range(120)]
    (tmp_path / "all-data.csv").write_bytes("\r\n".join(rows).encode("latin-1"))
    put_model(cache, "ProsusAI/finbert", write_finbert(tmp_path / "finbert", WORDS))
    recipe = load_recipe(recipe_file)

    splits = load_splits(recipe.data)

    assert splits.labels == SENTIMENTS
    assert sum(rows.num_rows for rows in (splits.train, splits.validation, splits.test)) == 120
    assert all(found.startswith("Seppälä , ") for found in splits.train.column("text").to_pylist())
    assert keeps_head(recipe.model, splits.labels)
    assert "model.safetensors" in trained(recipe, splits, tmp_path)


def test_sms_spam_reads_the_hubs_messages_and_class_names(cache: Path, tmp_path: Path) -> None:
    rows = range(120)
    content = parquet(sms=[f"{text(row)}\n" for row in rows], label=[row % 2 for row in rows])
    files = {"README.md": SMS_CARD.encode(), "plain_text/train-00000-of-00001.parquet": content}
    cached(cache, "datasets", "ucirvine/sms_spam", files)
    put_model(
        cache, "distilbert/distilbert-base-uncased", write_finbert(tmp_path / "base", WORDS, ("LABEL_0", "LABEL_1"))
    )
    recipe = load_recipe(shipped_recipes()["sms_spam"])

    splits = load_splits(recipe.data)

    assert splits.labels == ("ham", "spam")
    assert not keeps_head(recipe.model, splits.labels)
    assert "model.safetensors" in trained(recipe, splits, tmp_path)


def test_finance_tweets_names_the_numbers_takes_the_ready_split_and_stores_adapters_alone(
    cache: Path, tmp_path: Path
) -> None:
    lines = [f'"{text(row)}\nin two lines",{row % 3}' for row in range(120)]
    files = {name: "\n".join(["text,label", *part]).encode() for name, part in (("train", lines), ("valid", lines[:9]))}
    cached(
        cache,
        "datasets",
        "zeroshot/twitter-financial-news-sentiment",
        {"sent_train.csv": files["train"], "sent_valid.csv": files["valid"]},
    )
    put_model(cache, "microsoft/deberta-v3-xsmall", write_deberta(tmp_path / "deberta", lines))
    recipe = load_recipe(shipped_recipes()["finance_tweets_lora"])

    splits = load_splits(recipe.data)

    assert splits.labels == ("bearish", "bullish", "neutral")
    assert splits.validation.num_rows == 9
    assert splits.validation.column("label").to_pylist()[:3] == ["bearish", "bullish", "neutral"]
    stored = trained(recipe, splits, tmp_path)
    assert "adapter_model.safetensors" in stored
    assert "model.safetensors" not in stored
