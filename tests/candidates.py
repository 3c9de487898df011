"""Prepared data and checkpoints to promote: a BERT that learns in a second to tell three kinds of words."""

import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from common.dataset import load_splits
from common.recipe import Recipe
from common.tokenised import PreparedData, local_base_model, local_folder, prepare
from tests.training_data import LABELS, SPECIAL, WORDS, write_base_model
from tune.train_loop import TrainLoopConfig, train


def write_texts(file: Path, num_rows: int, seed: int) -> None:
    """A CSV of distinct texts, most of whose words are among the twenty of their label."""
    random = np.random.default_rng(seed)
    rows = {}
    for index in range(num_rows):
        label = index % len(LABELS)
        length = random.integers(6, 12)
        own = 20 * label + random.integers(0, 20, length)
        words = np.where(random.random(length) < 0.6, own, random.integers(0, 60, length))
        rows[" ".join(WORDS[word] for word in words)] = LABELS[label]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows.items()])


def prepare_texts(folder: Path, seed: int = 0, **sections: object) -> tuple[Recipe, PreparedData]:
    """A recipe over such texts and its prepared data, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_texts(folder / "texts.csv", 900, seed)
    torch.manual_seed(0)
    base = write_base_model(folder / "base")
    tokenizer = Tokenizer(WordLevel(dict(zip([*SPECIAL, *WORDS], range(64), strict=True)), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(base)
    recipe = Recipe.model_validate(
        {
            "name": "words",
            "data": {"source": str(folder / "texts.csv"), "split": {"validation": 0.2, "test": 0.2}},
            "model": {"base": str(base), "max_length": 16},
            **sections,
        }
    )
    return recipe, prepare(recipe, load_splits(recipe.data), str(folder / "storage"))


def fine_tune(prepared: PreparedData, folder: Path, *, learning_rate: float) -> Path:
    """The checkpoint of a fine-tuning of two epochs: 1e-2 learns the words, 1e-5 nothing."""
    config = TrainLoopConfig(
        data_folder=str(local_folder(prepared)),
        base_model=local_base_model(prepared),
        labels=prepared.labels,
        pad_token_id=prepared.pad_token_id,
        epochs=2,
        batch_size=16,
        learning_rate=learning_rate,
        weight_decay=0.0,
        warmup_ratio=0.1,
        precision="fp32",
        seed=0,
        num_threads=1,
    )

    def keep(metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)

    train(config, keep)
    return folder
