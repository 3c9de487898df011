"""A cache of the Hugging Face Hub, laid out by hand as `hf download` leaves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(
    cache: Path, kind: Literal["models", "datasets"], name: str, files: Mapping[str, bytes], commit: str = COMMIT
) -> None:
    """Puts a repository's files at one commit into a cache; `main` points to the commit that came last."""
    folder = cache / f"{kind}--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    for path, content in files.items():
        file = folder / "snapshots" / commit / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def go_offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """As `HF_HUB_OFFLINE=1` and `HF_HUB_CACHE` would do at the start of a process."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
