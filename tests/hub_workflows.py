"""What the shipped recipes fetch, small: data and models as theirs are on the Hub, put into a cache by hand."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from tests.hub_cache import cached
from tests.small_bases import write_deberta, write_finbert

WORDS = ("profit", "loss", "steady", "rose", "fell", "sales", "the", "a")
SENTIMENTS = ("negative", "neutral", "positive")
NUM_ROWS = 120
_NEWS_CARD = """---
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
_SMS_CARD = """---
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


def put_news(cache: Path, scratch: Path) -> Path:
    """Titles with a ready-made test split, and FinBERT, whose folder it returns."""
    files = {
        "README.md": _NEWS_CARD.encode(),
        "data/train-00000-of-00001.parquet": _news_rows(0, NUM_ROWS),
        "data/test-00000-of-00001.parquet": _news_rows(200, 9),
    }
    cached(cache, "datasets", "Jean-Baptiste/financial_news_sentiment", files)
    return put_finbert(cache, scratch)


def put_finbert(cache: Path, scratch: Path) -> Path:
    """A classifier that knows the three sentiments, in FinBERT's order."""
    return _put_model(cache, "ProsusAI/finbert", write_finbert(scratch / "finbert", WORDS))


def write_phrasebank(folder: Path) -> Path:
    """`all-data.csv` as it is published: no header line, Latin-1."""
    path = folder / "all-data.csv"
    rows = [f'{SENTIMENTS[row % 3]},"Seppälä , {_text(row)}"' for row in range(NUM_ROWS)]
    path.write_bytes("\r\n".join(rows).encode("latin-1"))
    return path


def put_sms(cache: Path, scratch: Path) -> None:
    """Messages with class names, and an encoder without a head of its own."""
    rows = range(NUM_ROWS)
    content = _parquet(sms=[f"{_text(row)}\n" for row in rows], label=[row % 2 for row in rows])
    files = {"README.md": _SMS_CARD.encode(), "plain_text/train-00000-of-00001.parquet": content}
    cached(cache, "datasets", "ucirvine/sms_spam", files)
    base = write_finbert(scratch / "distilbert", WORDS, ("LABEL_0", "LABEL_1"))
    _put_model(cache, "distilbert/distilbert-base-uncased", base)


def put_tweets(cache: Path, scratch: Path) -> None:
    """Tweets with line breaks, labels as numbers, two ready-made splits, and a DeBERTa."""
    lines, ready = (
        [f'"{_text(row)}\nin two lines",{row % 3}' for row in rows] for rows in (range(NUM_ROWS), range(300, 309))
    )
    parts = {"sent_train.csv": lines, "sent_valid.csv": ready}
    files = {name: "\n".join(["text,label", *part]).encode() for name, part in parts.items()}
    cached(cache, "datasets", "zeroshot/twitter-financial-news-sentiment", files)
    _put_model(cache, "microsoft/deberta-v3-xsmall", write_deberta(scratch / "deberta", lines))


def _put_model(cache: Path, name: str, folder: Path) -> Path:
    cached(cache, "models", name, {file.name: file.read_bytes() for file in folder.iterdir()})
    return folder


def _text(row: int) -> str:
    return f"{WORDS[row % 3]} {WORDS[3 + row % 5]} {row}"


def _news_rows(first: int, number: int) -> bytes:
    rows = range(first, first + number)
    texts = [_text(row) for row in rows]
    return _parquet(
        summary_detail=texts,
        title=[f"{each} title" for each in texts],
        summary_detail_with_title=texts,
        topic=[row % 2 for row in rows],
        labels=[row % 3 for row in rows],
    )


def _parquet(**columns: object) -> bytes:
    written = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), written)
    return written.getvalue()
