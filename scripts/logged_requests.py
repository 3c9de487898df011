"""What an endpoint was asked, from the request log in the storage: no cluster is needed, and nothing is woken."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError
from common.request_log_settings import log_location
from scripts.display import say
from scripts.job import storage_location
from scripts.steps import Result
from serve.recent_requests import COUNTED
from serve.request_files import RequestFiles
from serve.request_table import from_table, shown

MAX_LINE_CHARS = 100
"""Of a text, in people's output."""

_AGO = re.compile(r"(\d{1,5})([dhms])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1), "s": timedelta(seconds=1)}


def requests(name: str, *, since: str, limit: int, label: str | None, storage: str | None) -> Result:
    """Shows an endpoint's logged texts since then, and counts of them all by label, version and status.

    Raises:
        InputError: when `since` is no time, or the storage holds no log of that endpoint.
    """
    begin = moment(since, datetime.now(UTC))
    files = open_log(name, storage)
    where = None if label is None else pc.field("label") == label
    counted = files.read(begin, columns=["time", *COUNTED], where=where)
    counts = {column: _counts(counted[column]) for column in COUNTED}
    latest = list(from_table(files.read(begin, where=where, newest=limit)))
    for row in latest:
        answer = f"{row['label']:<12} {row['score']:.4f}" if row["label"] is not None else f"{row['status']:<19}"
        text = one_line(row["text"], row["text_pair"])
        say(f"{row['time']:%Y-%m-%d %H:%M:%S}  v{row['version'] or '?'}  {answer}  {row['latency_ms']:8.1f} ms  {text}")
    say(f"{counted.num_rows:,} texts since {begin:%Y-%m-%d %H:%M} UTC")
    for column, found in counts.items():
        if found:
            say(f"  by {column}: " + ", ".join(f"{value} {count:,}" for value, count in found.items()))
    return {
        "endpoint": name,
        "since": begin.isoformat(timespec="seconds"),
        "rows": counted.num_rows,
        "counts": counts,
        "requests": [shown(row) for row in reversed(latest)],
    }


def open_log(name: str, storage: str | None) -> RequestFiles:
    """The log of an endpoint. Raises `InputError` when the storage holds none."""
    place = storage_location(storage)
    files = RequestFiles(log_location(place, name))
    if not files.exists():
        raise InputError(
            f"there is no request log of {name!r} in {place}; name the storage it is in with --storage, or set "
            "serve.request_log in the endpoint's recipe (`request_log: {}`), deploy it and ask it something"
        )
    return files


def moment(text: str, now: datetime) -> datetime:
    """A time in the past: `7d`, `1h`, `30m` or `10s` ago, or a date or time (of UTC unless it says otherwise).

    Raises `InputError` when `text` is neither.
    """
    ago = _AGO.fullmatch(text)
    try:
        when = now - int(ago[1]) * _UNITS[ago[2]] if ago else datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise InputError(f"--since {text!r} is no time; write a date like 2027-01-31, or 7d, 1h, 30m, 10s") from error
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC)


def one_line(text: str, pair: str | None = None) -> str:
    """A text, or a pair, as a line of people's output."""
    words = " ".join((text if pair is None else f"{text} | {pair}").split())
    return words if len(words) <= MAX_LINE_CHARS else f"{words[: MAX_LINE_CHARS - 3]}..."


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value that is there occurs, the most frequent first."""
    return {str(value): count for value, count in Counter(column.drop_null().to_pylist()).most_common()}
