"""Digests: equal texts have equal ones, and only with the storage's own key."""

import os
import stat
from pathlib import Path

import pytest

from serve import text_digest as digests
from serve.text_digest import KEY_FILE, digest_key, text_digest


def test_equal_texts_have_equal_digests_under_one_key_and_others_under_another(tmp_path: Path) -> None:
    key, other = digest_key(str(tmp_path / "a")), digest_key(str(tmp_path / "b"))

    assert text_digest(key, "good") == text_digest(key, "good") != text_digest(key, "bad")
    assert text_digest(key, "good") != text_digest(other, "good")


def test_a_storage_keeps_its_key_readable_by_its_owner_alone(tmp_path: Path) -> None:
    key = digest_key(str(tmp_path))

    assert digest_key(str(tmp_path)) == key
    (path,) = (tmp_path / "request_log").iterdir()
    assert path.name == KEY_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_two_that_make_a_key_at_once_both_use_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def late(draft: Path, path: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        late.first = digest_key(str(tmp_path))  # type: ignore[attr-defined]
        link(draft, path)

    monkeypatch.setattr(os, "link", late)

    assert digest_key(str(tmp_path)) == late.first  # type: ignore[attr-defined]


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    digest_key(str(tmp_path))
    path = tmp_path / "request_log" / KEY_FILE
    path.write_bytes(b"short")

    with pytest.raises(OSError, match="is not a key of 32 bytes"):
        digest_key(str(tmp_path))
    assert path.read_bytes() == b"short"


def test_the_key_of_a_store_without_paths_is_kept_there_too() -> None:
    place = "memory://digests"

    assert digest_key(place) == digest_key(place)
    assert len(digest_key(place)) == digests._NUM_BYTES
