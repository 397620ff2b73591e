"""Models by name: a local folder, or a repository of the Hugging Face hub, fetched once into its local cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowbind.libraries import Extra, importing

FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # no other formats of the same weights


def folder_of(name: str, revision: str, kind: str, argument: str, extra: str, instead: str = "") -> Path:
    """The folder of a model.

    Args:
        name: a folder, or a repository on the hub.
        revision: branch, tag or commit of a repository.
        kind: what the model is, in messages.
        argument: of the codec or metric, that may be set to a folder.
        extra: of flowbind, that brings the packages needed.
        instead: another thing to do where the hub does not give it.

    Raises:
        ValueError: there is none, and the hub is needed but missing, unreachable, gated, or does not know the name.
    """
    if Path(name).is_dir():
        return Path(name)
    with importing("huggingface_hub", needing=f"{kind} '{name}'", install=Extra(extra)):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{kind} '{name}' ({revision}) is no folder, and the hub does not give it ({line(error)}); {instead}"
            f"log in with `hf auth login` if it is gated, or set `{argument}` to a local folder of the model"
        ) from None


def line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).strip().split("\n")[0]


def has_words(tokenizer) -> bool:
    """Whether a tokenizer is more than what transformers makes of missing files."""
    return len(tokenizer) > len(tokenizer.all_special_ids)


@contextmanager
def without_bars() -> Iterator[None]:
    """Leaves out transformers' progress bars, for weights that load in seconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
