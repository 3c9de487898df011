"""Keeping libraries from printing notes that are meant for their own developers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """No warnings, no progress bars, and from these loggers only errors, while the block runs."""
    chosen = [logging.getLogger(name) for name in ("transformers", *loggers)]
    levels = [logger.level for logger in chosen]
    with_progress = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        for logger in chosen:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chosen, levels, strict=True):
            logger.setLevel(level)
        if with_progress:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
