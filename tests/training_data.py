"""A data set and an encoder so small that training takes milliseconds, in the format that `common` prepares."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

from common.dataset import SPLITS
from common.tokenised import PreparedData
from tune.train_loop import TrainLoopConfig

LABELS = ("down", "flat", "up")
WORDS = [f"w{index}" for index in range(60)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_split(file: Path, num_rows: int, seed: int) -> None:
    """Texts of 3 to 14 tokens most of whose words are one of three that belong to their label."""
    random = np.random.default_rng(seed)
    labels = np.arange(num_rows) % len(LABELS)
    random.shuffle(labels)
    input_ids = []
    for label in labels:
        length = random.integers(1, 13)
        own = 4 + 20 * label + random.integers(0, 3, length)
        words = np.where(random.random(length) < 0.7, own, random.integers(4, 64, length))
        input_ids.append([2, *words.tolist(), 3])
    table = pa.table(
        {
            "input_ids": pa.array(input_ids, pa.list_(pa.int32())),
            "label": pa.array(labels, pa.int32()),
            "text": [" ".join(WORDS[token - 4] for token in tokens[1:-1]) for tokens in input_ids],
        }
    )
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=16)


def write_data(folder: Path, num_train: int = 70, num_validation: int = 31) -> Path:
    """A folder of prepared data with a word-level tokenizer."""
    folder.mkdir(parents=True)
    for seed, (split, num_rows) in enumerate(
        {"train": num_train, "validation": num_validation, "test": num_validation}.items()
    ):
        write_split(folder / f"{split}.arrow", num_rows, seed)
    tokenizer = Tokenizer(WordLevel(dict(zip([*SPECIAL, *WORDS], range(64), strict=True)), unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder / "tokenizer")
    return folder


def prepared_data(data: Path, base_model: Path) -> PreparedData:
    """What `common.tokenised.prepare` would say of such a folder."""
    prepared = PreparedData(
        uri=str(data),
        digest="0" * 64,
        data_digest="1" * 64,
        test_digest="2" * 64,
        labels=LABELS,
        num_rows={split: pa.ipc.open_file(data / f"{split}.arrow").read_all().num_rows for split in SPLITS},
        max_length=14,
        pad_token_id=0,
        base_model=str(base_model),
        source="made for tests",
    )
    (data / "prepared.json").write_text(json.dumps(asdict(prepared)))
    return prepared


def write_base_model(folder: Path, *, dropout: float = 0.0, labels: Iterable[str] | None = None) -> Path:
    """A random BERT of one layer; with `labels`, one that has a classification head for them."""
    logging.disable_progress_bar()
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.2,  # learns within a dozen steps
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def loop_settings(data: Path, base_model: Path, **changes: object) -> TrainLoopConfig:
    """A fine-tuning of three epochs with an uneven last batch."""
    settings: dict[str, object] = {
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 2e-2,
        "weight_decay": 0.01,
        "warmup_ratio": 0.1,
        "precision": "fp32",
        "seed": 5,
        "num_threads": 1,
    }
    return TrainLoopConfig(
        data_folder=str(data),
        base_model=str(base_model),
        labels=LABELS,
        pad_token_id=0,
        **(settings | changes),  # type: ignore[arg-type]
    )
