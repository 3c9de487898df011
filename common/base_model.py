"""The pretrained encoder that a recipe starts from: found, checked and asked for its tokenizer, before any training."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub

from common.errors import ModelError
from common.hub import hub_or_cache, way_in
from common.location import is_url

MAIN = "main"
"""The Hub's own default revision."""

WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""The second only where there are none of the first: it is older, and read by a loader that admits nothing else."""

SMALL_FILES = ("*.json", "*.txt", "*.model")
"""Configuration and tokenizer."""


def load_tokenizer(base: str, max_length: int, revision: str | None = None) -> Any:
    """The fast tokenizer (`transformers.PreTrainedTokenizerFast`) of a Hub model, at a revision, or a folder.

    No code from the model's repository is run. Raises ModelError when there is no such model, when it has no fast
    tokenizer or padding token, or when it cannot take `max_length` tokens.
    """
    from transformers import AutoTokenizer  # here: it takes seconds, and readers of prepared data need none

    config = load_config(base, revision)
    with _found(base, revision):
        tokenizer = AutoTokenizer.from_pretrained(base, revision=revision or MAIN, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"model.base {base} has no fast tokenizer (tokenizer.json); choose a model that has one")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"model.base {base} has no padding token, so texts cannot be batched; choose an encoder")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or max_length)
    if max_length > longest:
        raise ModelError(f"model.max_length {max_length} is above the {longest} tokens that {base} takes; lower it")
    return tokenizer


def load_config(base: str, revision: str | None = None) -> Any:
    """The configuration (`transformers.PreTrainedConfig`) of a Hub model, at a revision, or a folder; no weights.

    Raises ModelError when there is no such model.
    """
    from transformers import AutoConfig

    with _found(base, revision):
        return AutoConfig.from_pretrained(base, revision=revision or MAIN, trust_remote_code=False)


def pinned_revision(base: str, revision: str | None) -> str | None:
    """The commit that a Hub model's revision stands for now, which it stands for everywhere and always; None of a
    folder. Raises ModelError when there is no such model."""
    commit: str | None = getattr(load_config(base, revision), "_commit_hash", None)
    return commit or revision


@functools.cache
def hub_folder(base: str, revision: str) -> str:
    """The folder of a Hub model, at a commit, in this machine's cache; what of it is not there is downloaded once.

    From a folder, unlike by a model's name, nothing asks the Hub: not for each trial, and not to convert old weights.
    Raises ModelError when the Hub does not give it.
    """
    with _found(base, revision) as answers:
        snapshot = functools.partial(
            huggingface_hub.snapshot_download, base, revision=revision, local_files_only=not answers
        )
        folder = snapshot(allow_patterns=[*SMALL_FILES, WEIGHTS[0]])
        if not any(Path(folder).glob(WEIGHTS[0])):
            snapshot(allow_patterns=WEIGHTS[1])
    _check_folder(folder)
    return folder


@contextmanager
def _found(base: str, revision: str | None) -> Iterator[bool]:
    """Turns what is raised for a model that is not there into a ModelError; yields whether the Hub answers."""
    if is_url(base) or base.startswith("/"):
        _check_folder(base)
    with hub_or_cache() as answers:
        try:
            yield answers
        except (OSError, ValueError) as error:
            raise ModelError(_not_loaded(base, revision, answers, error)) from error


def _check_folder(base: str) -> None:
    folder = Path(base)
    if is_url(base):
        raise ModelError(f"model.base {base} is a URL; copy the model to a folder, or name a Hub model")
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {base}; check model.base (a Hub model is named like org/name)")
    if not (folder / "config.json").is_file():
        raise ModelError(f"model.base {base} holds no config.json, so it is not a model that transformers can load")
    if not any(True for pattern in WEIGHTS for _ in folder.glob(pattern)):
        raise ModelError(f"model.base {base} holds no weights ({' or '.join(WEIGHTS)}); was the download complete?")


def _not_loaded(base: str, revision: str | None, answers: bool, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    if Path(base).is_dir():
        return f"model.base {base} cannot be loaded: {reason}"
    named = f"model.base {base!r}" + (f" at model.revision {revision!r}" if revision else "")
    if not answers:
        return (
            f"{named} is no folder here, and the Hugging Face Hub does not answer (and its cache does not hold it); "
            "give a folder, or connect"
        )
    return f"{named} is no folder here, and the Hub does not give it ({reason}){way_in(error)}"
