"""What the models of text from the hub have in common."""

from collections.abc import Iterator
from contextlib import contextmanager


def has_words(tokenizer) -> bool:
    """Whether a tokenizer is more than what transformers makes of missing files."""
    return len(tokenizer) > len(tokenizer.all_special_ids)


@contextmanager
def without_bars() -> Iterator[None]:
    """Leaves out transformers' progress bars, for weights that load in seconds."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()
