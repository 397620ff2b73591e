"""Weights by name: a local folder, or a repository of the Hugging Face hub, fetched once into its local cache."""

from collections.abc import Sequence
from pathlib import Path

from flowbind.errors import first_line
from flowbind.libraries import Extra, importing

FILES = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
)  # no other formats of the same weights


def folder_of(
    name: str,
    revision: str,
    *,
    kind: str,
    argument: str,
    install: Extra,
    patterns: Sequence[str] = FILES,
    instead: str = "",
) -> Path:
    """The folder of a model.

    Args:
        name: a folder, or a repository on the hub.
        revision: branch, tag or commit of a repository.
        kind: what the model is, in messages.
        argument: of the codec or metric, that may be set to a folder.
        install: extra that brings the packages needed.
        patterns: files of the repository that are fetched.
        instead: another thing to do where the hub does not give it.

    Raises:
        ValueError: there is none, and the hub is needed but missing, unreachable, gated, or does not know the name.
    """
    if Path(name).is_dir():
        return Path(name)
    with importing("huggingface_hub", needing=f"{kind} '{name}'", install=install):
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise ValueError(unreachable(name, revision, kind, argument, error, instead)) from None


def unreachable(
    name: str, revision: str | None, kind: str, argument: str, error: Exception, instead: str = ""
) -> str:
    """What is said of a repository that cannot be had."""
    return (
        f"{kind} '{name}' ({revision or 'newest'}) is no folder, and the hub does not give it "
        f"({first_line(error)}); {instead}log in with `hf auth login` if it is gated, or set "
        f"`{argument}` to a local folder of the model"
    )


def local(**arguments: str) -> dict[str, Path]:
    """Those of a codec's arguments whose values are paths of something that is there."""
    return {name: Path(value) for name, value in arguments.items() if Path(value).exists()}
