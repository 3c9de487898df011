"""What identifies people by its form does not survive, however it is written; ordinary figures do."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serve.redaction import redact

SEPARATORS = st.text(" .-/()\u00a0\u2011\u2013\u2212\t", max_size=3)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("write to jane.doe+news@mail.example.org today", "write to [email] today"),
        ("jürgen@bücher.example", "[email]"),
        ("see https://example.com/reset?token=abc now", "see [url] now"),
        ("www.example.com and example.org/a/b", "[url] and [url]"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("card 4111-1111-1111-1111", "card [card]"),
        ("4111111111111112", "[number]"),  # fails the check digit
        ("call +49 (0)89 / 1234-567 or (555) 123-4567", "call [phone] or [phone]"),
        ("call 0800\u2011555\u2011123", "call [phone]"),
        ("account 00123456", "account [number]"),
        ("code 123456", "code [number]"),
        ("\u0661\u0662\u0663\u0664\u0665\u0666", "[number]"),  # Arabic-Indic digits are digits
    ],
)
def test_addresses_and_numbers_become_marks_that_say_what_stood_there(text: str, kept: str) -> None:
    assert redact(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "Profits rose 12.5 % to 1,234,567 euros in 2025",
        "@handle says #win 3 of 4",
        "from 9.30 to 17.45, and/or later",
        "5 a.m. @ the station",
        "",
    ],
)
def test_ordinary_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@given(st.lists(st.tuples(st.integers(0, 9), SEPARATORS), min_size=7, max_size=25), st.text(), st.text())
@example([(number, "") for number in range(7)], "", "")
def test_no_number_of_seven_digits_survives_however_it_is_grouped(
    digits: list[tuple[int, str]], before: str, after: str
) -> None:
    number = "".join(f"{digit}{separator}" for digit, separator in digits[:-1]) + str(digits[-1][0])

    kept = redact(f"{before} {number} {after}")

    assert number not in kept
    assert not re.search(r"\d{6}", kept)


@given(st.from_regex(r"[a-z0-9._%+-]{1,20}@[a-z0-9-]{1,20}\.[a-z]{2,6}", fullmatch=True), st.text(), st.text())
@example("someone@social.example", "@", "")
def test_no_address_survives(address: str, before: str, after: str) -> None:
    assert address not in redact(f"{before}{address}{after}")


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize("part", ["a", "a.", "1 ", "@", "a@", "+(", "www", "http", ".aa/", "a-b", "12345 "])
@pytest.mark.timeout(10)
def test_the_longest_text_that_is_taken_is_redacted_at_once_whatever_it_repeats(part: str) -> None:
    redact(part * (100_000 // len(part)))
