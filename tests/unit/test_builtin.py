import hashlib
import re
from collections import Counter

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from common.builtin import finance_headlines, tiny_bert
from common.data_checks import examine
from common.dataset import digest_of, load_splits
from common.recipe import Data


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def texts():
    return finance_headlines().column("text").to_pylist()


def test_the_headlines_are_always_the_same():
    assert digest_of({"all": finance_headlines()}) == digest_of({"all": finance_headlines()})


def test_the_headlines_are_balanced_and_rarely_repeat(texts):
    counts = Counter(finance_headlines().column("label").to_pylist())
    assert set(counts) == {"bearish", "bullish", "neutral"}
    assert min(counts.values()) > 0.3 * len(texts)
    assert len(texts) - len(set(texts)) < 0.01 * len(texts)
    assert not any("{" in text or "  " in text for text in texts)


def test_the_headlines_pass_the_examination():
    findings = examine(load_splits(Data(source="builtin:finance_headlines")), None, 64)
    assert not [finding for finding in findings if finding.severity == "error"]


WELCOME, UNWELCOME = "revenue|profit|output", "net debt|net loss|cash burn|wage bill"
RISES, FALLS = "rises|climbs|jumps|grows|surges|increases", "falls|slides|drops|shrinks|declines|tumbles"


@pytest.mark.parametrize(
    ("figures", "moves", "mood"),
    [
        (WELCOME, RISES, "bullish"),
        (WELCOME, FALLS, "bearish"),
        (UNWELCOME, RISES, "bearish"),
        (UNWELCOME, FALLS, "bullish"),
    ],
)
def test_a_move_is_good_or_bad_by_what_moves(figures, moves, mood):
    pattern = re.compile(rf"(quarter|year|half) ({figures}) ({moves}) \d+%")
    labels = Counter(row["label"] for row in finance_headlines().to_pylist() if pattern.search(row["text"]))
    assert labels.total() > 30
    assert 0.8 < labels[mood] / labels.total() < 1.0


def test_the_small_bert_is_the_same_for_the_same_texts(texts, tmp_path):
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir()
        tiny_bert(texts, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_small_bert_loads_as_any_model_does_and_leaves_the_random_state_alone(texts, tmp_path):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    tiny_bert(texts, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    batch = tokenizer(texts[:4], padding=True, return_tensors="pt")
    assert tokenizer.is_fast
    assert tokenizer.unk_token_id not in batch["input_ids"]
    assert model(**batch).logits.shape == (4, 3)
    assert (tmp_path / "model.safetensors").stat().st_size < 4_000_000
