"""`tuneserve keys`: the key is shown once and nowhere else."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.api_keys import KeyRing, keys_path
from common.errors import InputError
from scripts.cli import main
from scripts.keys import expiry

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESERVE_HOME", str(tmp_path))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["keys", *arguments], standalone_mode=False)
    return int(ending.value.code or 0)


def test_the_key_is_shown_once_and_opens_what_was_said(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("create", "ci", "--endpoint", "news", "--endpoint", "spam", "--expires", "90d", "--json") == 0
    out, err = capfd.readouterr()
    made = json.loads(out)
    found = KeyRing(keys_path()).find(made["key"])

    assert found is not None
    assert made["endpoints"] == ["news", "spam"] == list(found.endpoints)
    assert made["key"] in err
    assert run("list", "--json") == 0
    out, err = capfd.readouterr()
    (listed,) = json.loads(out)["keys"]
    assert (listed["name"], listed["expired"]) == ("ci", False)
    assert "ci" in err
    for shown in (out, err):
        assert made["key"] not in shown
        assert found.sha256 not in shown


def test_a_key_without_endpoints_opens_all(capfd: pytest.CaptureFixture[str]) -> None:
    run("create", "ci", "--json")
    assert json.loads(capfd.readouterr().out)["endpoints"] == ["*"]


def test_a_revoked_key_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    run("create", "ci")
    assert run("revoke", "ci") == 0
    capfd.readouterr()
    assert run("list", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"keys": []}
    assert run("revoke", "ci") == 2
    assert "there is no key 'ci'; there are: none" in capfd.readouterr().err


@given(amount=st.integers(1, 99_999), unit=st.sampled_from("dhm"))
def test_a_lifetime_counts_from_now(amount: int, unit: str) -> None:
    ahead = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}[unit]
    assert expiry(f"{amount}{unit}", NOW) == NOW + amount * ahead


@given(when=st.datetimes(min_value=datetime(2026, 11, 26), timezones=st.none() | st.just(UTC)))
def test_a_time_is_taken_as_it_is_written_and_as_utc_when_it_names_no_zone(when: datetime) -> None:
    assert expiry(when.isoformat(), NOW) == when.replace(tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-25", "0d", "2020-01-01T00:00:00Z"])
def test_what_is_over_already_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not in the future"):
        expiry(text, NOW)


@pytest.mark.parametrize("text", ["", "tomorrow", "9", "d", "-1d", "1.5h", "90 d", "99d\n", "2026-13-01"])
def test_anything_else_is_refused_with_what_can_be_written(text: str) -> None:
    with pytest.raises(InputError, match="is no time; write a date like 2027-01-31, or 90d, 12h or 30m"):
        expiry(text, NOW)


@given(text=st.text())
def test_whatever_is_written_no_expired_key_is_made(text: str) -> None:
    with suppress(InputError):
        assert expiry(text, NOW) > NOW
