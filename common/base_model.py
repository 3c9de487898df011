"""The pretrained encoder that a recipe starts from: found, checked and asked for its tokenizer, before any training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import ModelError
from common.hub import hub_or_cache
from common.location import is_url

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def load_tokenizer(base: str, max_length: int) -> Any:
    """The fast tokenizer (`transformers.PreTrainedTokenizerFast`) of a Hub model or a folder.

    No code from the model's repository is run. Raises ModelError when there is no such model, when it has no fast
    tokenizer or padding token, or when it cannot take `max_length` tokens.
    """
    from transformers import AutoTokenizer  # here: it takes seconds, and readers of prepared data need none

    config = load_config(base)
    with _found(base):
        tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ModelError(f"model.base {base} has no fast tokenizer (tokenizer.json); choose a model that has one")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"model.base {base} has no padding token, so texts cannot be batched; choose an encoder")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or max_length)
    if max_length > longest:
        raise ModelError(f"model.max_length {max_length} is above the {longest} tokens that {base} takes; lower it")
    return tokenizer


def load_config(base: str) -> Any:
    """The configuration (`transformers.PreTrainedConfig`) of a Hub model or a folder, without its weights.

    Raises ModelError when there is no such model.
    """
    from transformers import AutoConfig

    with _found(base):
        return AutoConfig.from_pretrained(base, trust_remote_code=False)


@contextmanager
def _found(base: str) -> Iterator[None]:
    """Turns what transformers raises for a model that is not there into a ModelError."""
    if is_url(base) or base.startswith("/"):
        _check_folder(base)
    with hub_or_cache() as answers:
        try:
            yield
        except (OSError, ValueError) as error:
            raise ModelError(_not_loaded(base, answers, error)) from error


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


def _not_loaded(base: str, answers: bool, error: Exception) -> str:
    if Path(base).is_dir():
        return f"model.base {base} cannot be loaded: {str(error).splitlines()[0]}"
    if not answers:
        return (
            f"model.base {base!r} is no folder here, and the Hugging Face Hub does not answer (and its cache does not "
            "hold it); give a folder, or connect"
        )
    return f"model.base {base!r} is no folder here, and the Hub does not give it ({str(error).splitlines()[0]})"
