"""Taking out of a text what identifies people by its form: addresses, and numbers long enough to be somebody's.

Marks say what stood there, so that a model that reads the text again still sees that there was a number. The rules err
on the side of taking out too much: a date with its time goes as well. Names of people cannot be told by their form and
stay. Every pattern takes time linear in the text, whoever wrote it.
"""

import re

MIN_DIGITS_IN_A_ROW = 6
"""Shorter runs are years, prices and quantities; six digits may be a one-time code or an account."""

MIN_DIGITS = 7
"""Digits of a number that is written in groups; the shortest telephone numbers have seven."""

_BETWEEN = r"[\s()\[\]./\\_+\-\u00ad\u200b\u2010-\u2015\u2212]{0,4}"
"""What people put between the groups of a number, all kinds of blanks and dashes among it."""

_URL = re.compile(r"(?:https?|ftp)://\S+|\bwww\.\S+|(?<!\S)[\w.-]+\.[a-z]{2,}/\S*", re.IGNORECASE)
# From the beginning of the word that holds the @: starting anywhere in it would take quadratic time.
_EMAIL = re.compile(r"(?<!\S)@*[^\s@]+@\S+")
_NUMBER = re.compile(rf"[+(]{{0,2}}\d(?:{_BETWEEN}\d){{{MIN_DIGITS - 1},}}|\d{{{MIN_DIGITS_IN_A_ROW},}}")

_CARD_LENGTHS = range(13, 20)  # ISO/IEC 7812
_PHONE_LENGTHS = range(MIN_DIGITS, 16)  # ITU-T E.164 allows 15


def redact(text: str) -> str:
    """The text with `[url]`, `[email]`, `[card]`, `[phone]` and `[number]` in place of such."""
    return _NUMBER.sub(_mark, _EMAIL.sub("[email]", _URL.sub("[url]", text)))


def _mark(found: re.Match[str]) -> str:
    digits = [int(char) for char in found[0] if char.isdecimal()]
    if len(digits) in _CARD_LENGTHS and _passes_luhn(digits):
        return "[card]"
    written_in_groups = not found[0].isdecimal()
    return "[phone]" if written_in_groups and len(digits) in _PHONE_LENGTHS else "[number]"


def _passes_luhn(digits: list[int]) -> bool:
    """The check digit of payment cards, ISO/IEC 7812-1 annex B."""
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
