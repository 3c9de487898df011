"""API keys of the gateway: made, listed and revoked on the command line, looked up by the gateway.

The store is one file in `home()` on the head node, readable by its owner alone. It outlives the cluster, so every start
of a gateway finds it, and no key travels through Ray, MLflow or a recipe. It holds SHA-256 digests and no key. A slow
hash, as for passwords, would protect nothing: 192 random bits are beyond guessing however fast the hash is, while each
request would pay for it, wrong keys of an attacker included.
"""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from common.errors import InputError
from common.ray_environment import home

ALL_ENDPOINTS = "*"
"""The scope that holds every endpoint, and the gateway's own pages."""

LOOK_AGAIN_AFTER_S = 1.0
"""For so long a gateway may not know of a key that was made or revoked."""

_ID_BYTES, _SECRET_BYTES = 6, 24
_KEY = re.compile(r"ts_([0-9a-f]{12})_[0-9a-f]{48}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ENDPOINT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}|\*")


class ApiKey(BaseModel):
    """What is kept of a key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    key_id: str
    """The part of the key that finds it; no secret."""
    sha256: str
    """Digest of the whole key, in hexadecimal."""
    endpoints: tuple[str, ...]
    """The endpoints that it opens, or `*`."""
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    def opens(self, endpoint: str) -> bool:
        """Whether it may ask `endpoint`."""
        return ALL_ENDPOINTS in self.endpoints or endpoint in self.endpoints

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...] = ()


def keys_path() -> Path:
    """The file with the keys of the gateways that are started here."""
    return home() / "api_keys.json"


def create_key(name: str, endpoints: Sequence[str] = (ALL_ENDPOINTS,), expires_at: datetime | None = None) -> str:
    """Makes a key and returns it; it is kept nowhere and cannot be shown again.

    Raises `InputError` when there is a key of that name, or when a name cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a key; use up to 63 letters, digits, dots, dashes and underscores")
    for endpoint in endpoints:
        if not _ENDPOINT.fullmatch(endpoint):
            raise InputError(f"{endpoint!r} is not the name of an endpoint, which is its recipe's, and not '*' for all")
    key_id = secrets.token_hex(_ID_BYTES)
    key = f"ts_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
    kept = ApiKey(
        name=name,
        key_id=key_id,
        sha256=_digest(key),
        endpoints=tuple(dict.fromkeys(endpoints)),
        created_at=datetime.now(UTC).replace(microsecond=0),
        expires_at=expires_at,
    )
    with _only_one():
        keys = read_keys()
        if any(other.name == name for other in keys):
            raise InputError(f"there is a key {name!r} already; choose another name, or: tuneserve keys revoke {name}")
        _write([*keys, kept])
    return key


def revoke_key(name: str) -> None:
    """Forgets a key. Raises `InputError` when there is none of that name."""
    with _only_one():
        keys = read_keys()
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            there = ", ".join(key.name for key in keys) or "none"
            raise InputError(f"there is no key {name!r}; there are: {there}")
        _write(left)


def read_keys(path: Path | None = None) -> tuple[ApiKey, ...]:
    """All keys, expired ones included, in the order of their making. Raises `InputError` when they cannot be read."""
    path = path or keys_path()
    try:
        return _KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        reason = error if isinstance(error, OSError) else f"{error.error_count()} problems"
        raise InputError(
            f"{path} does not hold API keys ({reason}); restore it, or remove it and make the keys anew"
        ) from error


class KeyRing:
    """The keys as a gateway knows them: the file is looked at again once a second, and read when it has changed."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_at = -LOOK_AGAIN_AFTER_S
        self._seen: tuple[int, ...] | None = None
        self._by_id: dict[str, ApiKey] = {}
        self._problem: InputError | None = None

    def find(self, presented: str) -> ApiKey | None:
        """The key that `presented` is, unless it is unknown, revoked or expired; digests are compared in constant time.

        Raises `InputError` while the file cannot be read: nobody can tell then which keys were revoked.
        """
        self._look_again()
        if self._problem is not None:
            raise self._problem
        digest = _digest(presented)
        match = _KEY.fullmatch(presented)
        key = self._by_id.get(match[1]) if match else None
        is_same = hmac.compare_digest(digest, key.sha256 if key else "0" * 64)
        return key if key and is_same and not key.has_expired else None

    def _look_again(self) -> None:
        now = self._clock()
        if now - self._looked_at < LOOK_AGAIN_AFTER_S:
            return
        self._looked_at = now
        seen = _fingerprint(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._by_id, self._problem = {key.key_id: key for key in read_keys(self._path)}, None
        except InputError as error:
            self._by_id, self._problem = {}, error


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _fingerprint(path: Path) -> tuple[int, ...]:
    """Changes whenever the file is written: each writing is a new file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _write(keys: Sequence[ApiKey]) -> None:
    path = keys_path()
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(_KeyFile(keys=tuple(keys)).model_dump_json(indent=2))
    draft.replace(path)


@contextmanager
def _only_one() -> Iterator[None]:
    """Waits until no other process changes the keys."""
    with (home() / "api_keys.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
