import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel

from common.classifier import MAX_CHARS_PER_TOKEN, Classifier, Inputs, Logits, passes, probabilities
from common.errors import ModelError
from tests.tiny_model import VOCABULARY, build_engine

TEXTS = st.lists(st.sampled_from(["good", "bad", "other"]), max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_engine(tmp_path_factory.mktemp("engine"))


def test_each_text_gets_its_label_and_scores_that_add_up_to_one(folder: Path) -> None:
    predictions = Classifier.load(folder).classify(["good good", "bad"])

    assert [prediction.label for prediction in predictions] == ["good", "bad"]
    for prediction in predictions:
        assert set(prediction.scores) == {"bad", "good"}
        assert sum(prediction.scores.values()) == pytest.approx(1.0, abs=1e-12)
        assert prediction.score == prediction.scores[prediction.label] == max(prediction.scores.values())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, max_size=70))
def test_a_text_is_answered_the_same_alone_and_among_others(folder: Path, texts: list[str]) -> None:
    classifier = Classifier.load(folder)

    together = classifier.logits(texts)

    assert together.shape == (len(texts), 2)
    assert together.dtype == np.float32
    for row, text in zip(together, texts, strict=True):
        assert row == pytest.approx(classifier.logits([text])[0])
        assert row[1] == 2 * (text.split().count("good") - text.split().count("bad"))


def test_a_text_is_cut_at_max_length(folder: Path) -> None:
    classifier = Classifier.load(folder)

    assert classifier.max_length == 64
    assert classifier.logits(["good " * 64 + "bad " * 100])[0].tolist() == [-128.0, 128.0]


def test_a_prediction_tells_its_logits_and_whether_its_text_was_cut(folder: Path) -> None:
    short, exact, long = Classifier.load(folder).classify(["good", "good " * 64, "bad " * 65])

    assert dict(zip(short.scores, short.logits, strict=True)) == {"bad": -2.0, "good": 2.0}
    assert [found.truncated for found in (short, exact, long)] == [False, False, True]


def test_a_pair_is_read_as_one_input_and_cut_like_one(folder: Path) -> None:
    classifier = Classifier.load(folder)

    together, alone = classifier.classify([("good bad", "good"), "good bad good"])
    assert together.logits == alone.logits
    assert classifier.classify([("good " * 40, "bad " * 40)])[0].truncated


@pytest.fixture(scope="module", params=["word pieces", "bytes"])
def hardened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """The tiny model behind the tokenizers of BERT's and of GPT's kind."""
    folder = build_engine(tmp_path_factory.mktemp("engine"))
    if request.param == "word pieces":
        tokenizer = Tokenizer(WordPiece(VOCABULARY, unk_token="[UNK]"))
        tokenizer.normalizer = BertNormalizer()
        tokenizer.pre_tokenizer = BertPreTokenizer()
    else:
        tokenizer = Tokenizer(BPE(VOCABULARY, [], unk_token="[UNK]", ignore_merges=True))
        tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return Classifier.load(folder)


@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
def test_no_text_fails_or_changes_the_texts_beside_it(hardened: Classifier, text: str) -> None:
    before, answer, after = hardened.classify(["good", text, "bad"])

    assert (before.logits, after.logits) == ((-2.0, 2.0), (2.0, -2.0))
    assert answer == hardened.classify([text])[0]


@pytest.mark.parametrize("text", ["\0", "good\0bad", "", " ", "\u200b", "\U0010ffff", "x" * 100_000, "good " * 20_000])
def test_no_text_that_json_can_say_fails_the_texts_beside_it(folder: Path, text: str) -> None:
    before, _, after = Classifier.load(folder).classify(["good", text, "bad"])

    assert (before.label, after.label) == ("good", "bad")


def test_the_tokenizer_sees_no_more_of_a_text_than_the_model_could_read(folder: Path) -> None:
    given: list[object] = []

    class Counting:
        def encode_batch_fast(self, texts):
            given.extend(texts)
            return classifier._tokenizer.encode_batch_fast(texts)

    classifier = Classifier.load(folder)
    limit = MAX_CHARS_PER_TOKEN * classifier.max_length
    texts = ["bad" + " " * 99_997, ("good", "x" * 100_000), "good"]
    answers = replace(classifier, _tokenizer=Counting()).classify(texts)

    assert given == [texts[0][:limit], ("good", "x" * limit), "good"]
    assert [found.truncated for found in answers] == [True, True, False]
    assert answers[0].label == "bad"


def test_a_text_is_padded_to_neighbours_of_its_length_and_not_to_the_longest_of_all(folder: Path) -> None:
    widths: list[int] = []

    def model(inputs: Inputs) -> Logits:
        widths.append(inputs["input_ids"].shape[1])
        return np.zeros((len(inputs["input_ids"]), 2), dtype=np.float32)

    Classifier.load(folder).with_model(model, batch_size=8, pass_tokens=5).classify(["good", "bad " * 50] * 2)

    assert sorted(widths) == [1, 50]


@given(
    lengths=st.lists(st.integers(0, 40), max_size=9),
    batch_size=st.integers(1, 5),
    pass_tokens=st.integers(0, 50),
    cuts=st.sets(st.integers(1, 8)),
)
def test_every_text_is_read_once_and_no_other_passes_cost_less(
    lengths: list[int], batch_size: int, pass_tokens: int, cuts: set[int]
) -> None:
    def cost(found: list[list[int]]) -> int:
        return sum(pass_tokens + len(rows) * max(lengths[row] for row in rows) for rows in found)

    found = passes(lengths, batch_size, pass_tokens)

    assert sorted(row for rows in found for row in rows) == list(range(len(lengths)))
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    edges = [0, *sorted(cut for cut in cuts if cut < len(order)), len(order)]
    other = [order[start:end] for start, end in pairwise(edges) if start < end]
    assert all(len(rows) <= batch_size for rows in found)
    if all(len(rows) <= batch_size for rows in other):
        assert cost(found) <= cost(other)


def test_no_texts_and_empty_texts_are_answered(folder: Path) -> None:
    classifier = Classifier.load(folder)

    assert classifier.classify([]) == []
    assert classifier.classify([""])[0].score == 0.5


def test_a_text_without_tokens_is_padded_to_one_because_models_cannot_take_none(folder: Path) -> None:
    fed: dict[str, np.ndarray] = {}

    def model(inputs: Inputs) -> Logits:
        fed.update(inputs)
        return np.zeros((1, 2), dtype=np.float32)

    Classifier.load(folder).with_model(model, batch_size=8, pass_tokens=5).logits([""])

    assert {name: array.tolist() for name, array in fed.items()} == {"input_ids": [[0]], "attention_mask": [[0]]}


def test_large_logits_do_not_overflow() -> None:
    scores = probabilities(np.array([[1e4, -1e4], [0.0, 0.0]], dtype=np.float32))

    assert scores.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (build_engine(tmp_path) / "tokenizer.json").unlink()

    with pytest.raises(ModelError, match=r"lacks tokenizer\.json; promote the model again"):
        Classifier.load(tmp_path)


def test_a_model_with_other_labels_than_it_says_is_refused(tmp_path: Path) -> None:
    file = build_engine(tmp_path) / "labels.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": ["a", "b", "c"]}))

    with pytest.raises(ModelError, match=r"2 outputs and labels\.json names 3 labels"):
        Classifier.load(tmp_path)


def test_a_broken_model_file_is_one_error(tmp_path: Path) -> None:
    (build_engine(tmp_path) / "model.onnx").write_bytes(b"not a model")

    with pytest.raises(ModelError, match="not a model that ONNX Runtime can open"):
        Classifier.load(tmp_path)


def test_a_replica_needs_no_torch_transformers_or_mlflow() -> None:
    code = "import sys, common.classifier; print([m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules])"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
