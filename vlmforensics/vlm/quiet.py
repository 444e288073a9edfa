"""Keep what libraries say about themselves off a user's terminal, for as long as one call takes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers; the caller's own choice is restored after."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """No remarks of peft and its optional companions that concern no user."""
    companion = logging.getLogger("bitsandbytes")
    level = companion.level
    companion.setLevel(logging.ERROR)  # tells of an optional CPU kernel each time it is imported
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        companion.setLevel(level)
