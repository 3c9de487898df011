"""The Hugging Face Hub, asked quickly: an unreachable one must not cost the user a silent wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import constants

PROBE_TIMEOUT_S = 5.0

_HIDDEN = ("RepositoryNotFoundError", "GatedRepoError", "DatasetNotFoundError")
"""Errors of `huggingface_hub` and of `datasets`, which takes a second to import."""


def hub_answers() -> bool:
    """Whether the Hub (`HF_ENDPOINT`) answers within a few seconds; False in offline mode (`HF_HUB_OFFLINE`)."""
    if constants.is_offline_mode():
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
    except httpx.HTTPError:
        return False
    return True


@contextmanager
def hub_or_cache() -> Iterator[bool]:
    """Inside, Hub libraries use their cache alone when the Hub does not answer; yields whether it does.

    Without this they retry every file five times, 23 s each (`huggingface_hub.utils._http.http_backoff`), before they
    look at the cache. They read the offline switch at each call, which is why setting it here is enough.
    """
    answers = hub_answers()
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = not answers
    try:
        yield answers
    finally:
        constants.HF_HUB_OFFLINE = before


def way_in(error: BaseException) -> str:
    """What to do when the Hub shows something only to some, as the end of a sentence; empty for any other error.

    The Hub tells those who may not see a private model or data set that there is none.
    """
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _HIDDEN:
            return "; if it is gated or private, ask for access on its page, and set HF_TOKEN to a token that may read"
        cause = cause.__cause__ or cause.__context__
    return ""
