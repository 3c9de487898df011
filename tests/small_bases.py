"""Base models as the Hub has them, small: FinBERT's files and DeBERTa-v3's, weights in the old format and no
`tokenizer.json` in either."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece
import torch
from transformers import BertConfig, BertForSequenceClassification, DebertaV2Config, DebertaV2Model

from tests.training_data import WORDS


def write_finbert(
    folder: Path, words: Sequence[str], labels: Sequence[str] = ("positive", "negative", "neutral")
) -> Path:
    """A BERT whose head knows labels, in FinBERT's order."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "model_max_length": 512}))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model = BertForSequenceClassification(config)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    _write_config(folder, config.to_dict() | {"architectures": ["BertForSequenceClassification"]})
    return folder


def write_deberta(folder: Path, texts: Sequence[str] = WORDS) -> Path:
    """A DeBERTa-v3 encoder in half precision, with a sentencepiece model alone for a tokenizer."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "spm"),
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        unk_piece="[UNK]",
    )
    (folder / "spm.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False, "vocab_type": "spm"}))
    config = DebertaV2Config(
        vocab_size=128,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=16,
        initializer_range=0.2,
    )
    model = DebertaV2Model(config)
    weights = {f"deberta.{name}": tensor.half() for name, tensor in model.state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    _write_config(folder, config.to_dict())
    return folder


def _write_config(folder: Path, config: Mapping[str, object]) -> None:
    kept = {name: value for name, value in config.items() if name not in ("dtype", "transformers_version")}
    (folder / "config.json").write_text(json.dumps(kept))
