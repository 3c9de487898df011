"""Keyed digests of texts: equal texts have equal ones, and nobody without the key can try texts out against them.

A plain SHA-256 would not do: what people write is short and can be guessed. The key lies beside the logs, readable by
its owner alone; who may read it may try texts out, and who deletes it makes the digests of before and after unrelated.
"""

import hmac
import os
import secrets
import uuid
from pathlib import Path

from common.location import filesystem, join, local_path
from common.request_log_settings import FOLDER
from common.storage import write_bytes

KEY_FILE = ".digest_key"
_NUM_BYTES = 32


def digest_key(storage: str) -> bytes:
    """The key of all logs in a storage, made when it is missing. Raises `OSError` where that cannot be done."""
    uri = join(storage, FOLDER, KEY_FILE)
    return _read(uri) or _make(uri)


def text_digest(key: bytes, text: str) -> str:
    """32 hexadecimal digits: the first half of HMAC-SHA-256."""
    return hmac.digest(key, text.encode(), "sha256")[:16].hex()


def _read(uri: str) -> bytes | None:
    files, path = filesystem(uri)
    try:
        with files.open_input_stream(path) as stream:
            content: bytes = stream.read()
    except FileNotFoundError:
        return None
    if len(content) != _NUM_BYTES:
        raise OSError(f"{uri} is not a key of {_NUM_BYTES} bytes; restore it, or delete it to begin with a new one")
    return content


def _make(uri: str) -> bytes:
    """Writes a new key unless somebody else was first, and returns the one that is there then."""
    key = secrets.token_bytes(_NUM_BYTES)
    path = local_path(uri)
    if path is None:
        write_bytes(uri, key)  # an object store's own rules say who may read it
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_first(path, key)
    found = _read(uri)
    assert found is not None
    return found


def _put_first(path: Path, key: bytes) -> None:
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    try:
        os.link(draft, path)  # unlike a rename, this never replaces a key that is in use
    except FileExistsError:
        pass
    finally:
        draft.unlink()
