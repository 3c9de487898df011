"""API keys on the command line."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from common.api_keys import ALL_ENDPOINTS, ApiKey, create_key, read_keys, revoke_key
from common.errors import InputError
from scripts.display import say
from scripts.steps import Result

_AHEAD = re.compile(r"(\d{1,5})([dhm])")
_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}


def create(name: str, endpoints: Sequence[str], expires: str | None) -> Result:
    """Makes a key and shows it: the only time that anybody sees it."""
    expires_at = None if expires is None else expiry(expires, datetime.now(UTC))
    key = create_key(name, endpoints or (ALL_ENDPOINTS,), expires_at)
    kept = next(kept for kept in read_keys() if kept.name == name)
    say(f"API key {name!r} for {_scope(kept)}, {_lifetime(kept)}. Keep it now, it cannot be shown again:")
    say(f"  {key}")
    return {"key": key, **_told(kept)}


def show() -> Result:
    """The keys, without what would open anything."""
    keys = read_keys()
    for key in keys:
        say(f"{key.name}  ts_{key.key_id}_...  {_scope(key)}, made {key.created_at:%Y-%m-%d}, {_lifetime(key)}")
    if not keys:
        say("There is no API key; make one: tuneserve keys create NAME")
    return {"keys": [_told(key) for key in keys]}


def revoke(name: str) -> Result:
    """Forgets a key."""
    revoke_key(name)
    say(f"The API key {name!r} is revoked; running gateways refuse it within two seconds.")
    return {"revoked": name}


def expiry(text: str, now: datetime) -> datetime:
    """When a key expires: `90d`, `12h` and `30m` from now, or at a date or time (of UTC unless it says otherwise).

    Raises `InputError` when `text` is neither, or not in the future.
    """
    ahead = _AHEAD.fullmatch(text)
    try:
        when = now + int(ahead[1]) * _UNITS[ahead[2]] if ahead else datetime.fromisoformat(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no time; write a date like 2027-01-31, or 90d, 12h or 30m") from error
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    if when <= now:
        raise InputError(f"{text!r} is not in the future; a key that opens nothing is not made")
    return when


def _told(key: ApiKey) -> Result:
    return key.model_dump(mode="json", exclude={"sha256"}) | {"expired": key.has_expired}


def _scope(key: ApiKey) -> str:
    return "all endpoints" if key.opens(ALL_ENDPOINTS) else ", ".join(key.endpoints)


def _lifetime(key: ApiKey) -> str:
    if key.expires_at is None:
        return "without end"
    return f"expired {key.expires_at:%Y-%m-%d}" if key.has_expired else f"until {key.expires_at:%Y-%m-%d %H:%M %Z}"
