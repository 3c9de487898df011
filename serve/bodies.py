"""From the bytes of a body to Python objects, without holding up anybody else's request.

A JSON parser keeps Python's interpreter to itself until it is done: in a thread as on the event loop. What it takes
depends on the number of values far more than on bytes: 4 MiB are one text in 1 ms, or two million numbers in 300 ms and
their complaints in 36 s. So a large body's values are counted first, in a thread that lets others run between any two
of them, and a body with more of them than texts could need is refused before it is parsed.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

LARGE_BYTES = 64 * 1024
"""A body up to this is parsed at once: handing it to a thread costs as much."""

MAX_MARKS = 50_000
"""Strings, and commas and brackets outside of them, in a body of JSON: it is parsed within some milliseconds."""

Parsed = TypeVar("Parsed")


async def off_loop(parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
    """What `parse` makes of `body`, in a thread when the body is large. Raises what `parse` raises."""
    if len(body) <= LARGE_BYTES:
        return parse(body)
    return await asyncio.to_thread(parse, body)


def has_too_many_values(body: bytes) -> bool:
    """Whether a large body holds more than `MAX_MARKS`, if it is JSON; small ones need no counting."""
    if len(body) <= LARGE_BYTES or _num_separators(body, 0, len(body)) <= MAX_MARKS // 3 - 1:
        return False  # at most two strings, a name and its value, follow each
    num_marks, place = 0, 0
    while num_marks <= MAX_MARKS:
        begins = body.find(b'"', place)
        if begins < 0:
            return num_marks + _num_separators(body, place, len(body)) > MAX_MARKS
        num_marks += 1 + _num_separators(body, place, begins)
        place = _behind_string(body, begins + 1)
    return True


def _num_separators(body: bytes, start: int, end: int) -> int:
    return sum(body.count(mark, start, end) for mark in (b",", b"[", b"{"))


def _behind_string(body: bytes, start: int) -> int:
    """Where the string goes on that began before `start`; the body's end when it never ends."""
    while (end := body.find(b'"', start)) >= 0:
        before = body[start:end]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return end + 1
        start = end + 1  # an escaped quotation mark
    return len(body)
