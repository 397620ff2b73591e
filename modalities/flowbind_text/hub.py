"""What the models of text from the hub have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowbind.errors import first_line
from flowbind.libraries import Extra, importing


def has_words(tokenizer) -> bool:
    """Whether a tokenizer is more than what transformers makes of missing files."""
    return len(tokenizer) > len(tokenizer.all_special_ids)


def load_tokenizer(folder: Path, needing: str, install: Extra):
    """A tokenizer of transformers in a folder.

    Args:
        folder: Folder that holds its files.
        needing: What needs transformers, for the message.
        install: What installs them.

    Raises:
        ValueError: transformers is not installed, or the folder holds no tokenizer.
    """
    with importing("transformers", needing=needing, install=install):
        from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}: no tokenizer of transformers ({first_line(error)})"
        ) from None


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


@contextmanager
def without_reports() -> Iterator[None]:
    """Leaves out bars and transformers' tables of weights too, for callers that look themselves."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_bars():
            yield
    finally:
        logging.set_verbosity(level)
