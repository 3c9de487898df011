"""What ships with tuneserve so that the quickstart needs no download: finance headlines and a small BERT.

The headlines are made from a grammar with a fixed seed; companies and figures are invented. A headline's mood is no
matter of single words: rising revenue is good news and rising costs are bad, losses that narrow are good, and neutral
headlines speak of the same things. Asides contradict, some news is mixed, and a few labels are wrong, as in real data.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from tokenizers import Tokenizer
from tokenizers.trainers import WordPieceTrainer

NUM_HEADLINES = 3600
LABEL_NOISE = 0.06
"""Share of the headlines whose label was replaced by one of the other two."""

MIXED_NEWS = 0.02
"""Share of the headlines that report good and bad news at once."""

LABELS = ("bearish", "bullish", "neutral")

_SEED = 2026

_NAMES = (
    *("Norvane", "Keldric", "Altamere", "Brisco", "Corvella", "Dunmark", "Estrel", "Fenwick", "Galdor", "Hespera"),
    *("Ilmara", "Jorvik", "Kestrel", "Lumenor", "Marwell", "Novantis", "Orbeck", "Pellworth", "Quorane", "Rosvall"),
    *("Solmere", "Tarrant", "Ulvara", "Vantor", "Westmere", "Xandria", "Yarrow", "Zentara"),
)
_KINDS = ("Systems", "Energy", "Foods", "Motors", "Bank", "Pharma", "Retail", "Logistics", "Media", "Steel", "Airlines")
_PERIODS = ("first-quarter", "second-quarter", "third-quarter", "fourth-quarter", "full-year", "first-half")
_WELCOME = (  # good news when they rise
    *("revenue", "profit", "earnings", "order intake", "operating margin", "cash flow", "market share", "output"),
    *("net interest income", "passenger traffic", "subscriber growth", "return on equity"),
)
_UNWELCOME = (  # bad news when they rise
    *("net debt", "net loss", "customer churn", "fuel bill", "unsold inventory", "tax charge", "cash burn"),
    *("wage bill", "bad loan ratio"),
)
_RISES = ("rises", "climbs", "jumps", "grows", "surges", "increases", "widens", "swells")
_FALLS = ("falls", "slides", "drops", "shrinks", "declines", "narrows", "tumbles", "slips")
_GOOD_EVENTS = (
    "wins {money} contract from {other}",
    "raises {period} guidance",
    "lifts dividend by {percent}",
    "upgraded to buy at {broker}",
    "beats {period} estimates on strong {welcome}",
    "secures approval for new product",
    "announces {money} share buyback",
    "settles dispute with {other} on better terms than feared",
)
_BAD_EVENTS = (
    "loses {money} contract to {other}",
    "cuts {period} guidance",
    "suspends dividend after {percent} fall in {welcome}",
    "downgraded to sell at {broker}",
    "misses {period} estimates on weak {welcome}",
    "recalls product after safety review",
    "faces {money} fine over disclosure",
    "warns on {unwelcome}",
)
_NEUTRAL_EVENTS = (
    "to report {period} {welcome} on {day}",
    "names new chief financial officer",
    "keeps {period} guidance unchanged",
    "holds annual meeting on {day}",
    "{period} {welcome} in line with estimates",
    "to present at {broker} conference on {day}",
    "says {welcome} and {unwelcome} little changed",
    "publishes {period} report on {welcome}",
    "rated hold at {broker}",
    "dividend stays at {money}",
    "signs supply agreement with {other}",
    "analysts split on {period} {welcome}",
    "expects {welcome} to rise and {unwelcome} to rise as well",
)
_MIXED_EVENTS = (  # readers disagree on these: their label is any of the three
    "{welcome} rises {percent} but {unwelcome} rises {percent}",
    "{welcome} falls {percent} but {unwelcome} falls {percent}",
    "{period} {welcome} up, {period} guidance cut",
    "{period} {welcome} down, dividend lifted by {percent}",
    "upgraded at {broker}, downgraded at Stonefield",
)
_ASIDES = (
    *([""] * 12),
    " despite {percent} rise in {unwelcome}",
    " despite {percent} drop in {welcome}",
    " as {other} gains market share",
    " after last year's slump",
    " after record {period} results",
    " as analysts had expected",
    ", {broker} says",
    " while {other} {welcome} falls",
    " while {other} {welcome} rises",
    " as demand cools",
)
_BROKERS = ("Harlow Partners", "Trent & Co", "Meridian Research", "Stonefield", "Alder Securities")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def finance_headlines() -> pa.Table:
    """The built-in data set: 3,600 rows of `text` and `label` (bearish, bullish, neutral), always the same."""
    draw = _Draw(_SEED)
    rows = [_headline(draw) for _ in range(NUM_HEADLINES)]
    return pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def tiny_bert(texts: Sequence[str], folder: Path) -> None:
    """Writes a small untrained BERT (2 layers, hidden size 128) and its tokenizer to `folder`.

    The WordPiece vocabulary is trained on `texts`; weights are drawn from a fixed seed and saved as safetensors, so the
    same texts give the same files. `transformers`' Auto classes load the folder.
    """
    # Imported here: a recipe that brings its own model needs none of these to read its data.
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, BertTokenizer

    vocabulary = _word_pieces(texts, BertTokenizer().backend_tokenizer)
    tokenizer = BertTokenizer(vocab=vocabulary, model_max_length=512)
    config = BertConfig(
        architectures=["BertModel"],
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=512,
        initializer_range=0.05,  # the usual 0.02 is for wider models and learns slowly from scratch at this width
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = BertModel(config)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def _word_pieces(texts: Sequence[str], blank: Tokenizer) -> dict[str, int]:
    """A WordPiece vocabulary of at most 4,000 pieces, the same for the same texts.

    The trainer numbers letters in the order of a hash map, which differs from run to run and decides between equally
    frequent pairs. Letters given as special tokens are numbered in the given order, first of all.
    """
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = sorted(
        {letter for text in texts for letter in blank.normalizer.normalize_str(text) if not letter.isspace()}
    )
    trainer = WordPieceTrainer(
        vocab_size=4000,
        special_tokens=[*special, *letters, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    blank.train_from_iterator(texts, trainer)
    pieces: dict[str, int] = blank.get_vocab()
    return pieces


class _Draw:
    """Draws from lists, the same in every Python version: only `random()` itself is promised to stay."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, bound: int) -> int:
        return int(self._random.random() * bound)

    def one(self, values: Sequence[str]) -> str:
        return values[self.below(len(values))]

    def chance(self, probability: float) -> bool:
        return self._random.random() < probability


def _headline(draw: _Draw) -> tuple[str, str]:
    """One headline and its label, which is wrong in `LABEL_NOISE` of the cases."""
    label = draw.one(LABELS)
    company = f"{draw.one(_NAMES)} {draw.one(_KINDS)}"
    text = f"{company} {_news(draw, label)}{draw.one(_ASIDES)}"
    while "{" in text:
        text = text.format(
            other=f"{draw.one(_NAMES)} {draw.one(_KINDS)}",
            welcome=draw.one(_WELCOME),
            unwelcome=draw.one(_UNWELCOME),
            period=draw.one(_PERIODS),
            percent=f"{1 + draw.below(40)}%",
            money=f"${1 + draw.below(900)} million",
            broker=draw.one(_BROKERS),
            day=draw.one(_DAYS),
        )
    if draw.chance(LABEL_NOISE):
        label = draw.one([other for other in LABELS if other != label])
    return text, label


def _news(draw: _Draw, label: str) -> str:
    """What the headline reports: a figure that moves, or an event."""
    if draw.chance(MIXED_NEWS):
        return draw.one(_MIXED_EVENTS)
    if label == "neutral":
        return draw.one(_NEUTRAL_EVENTS)
    good = label == "bullish"
    if draw.chance(0.4):
        return draw.one(_GOOD_EVENTS if good else _BAD_EVENTS)
    welcome = draw.chance(0.8)
    figure = draw.one(_WELCOME if welcome else _UNWELCOME)
    move = draw.one(_RISES if welcome == good else _FALLS)
    return f"{draw.one(_PERIODS)} {figure} {move} {1 + draw.below(40)}%"
