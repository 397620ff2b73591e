"""Weights by name: a local folder, or a repository of the Hugging Face hub in its local cache."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from flowbind.errors import first_line
from flowbind.files import no_space
from flowbind.libraries import Extra, importing

# No other formats of the same weights.
FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class Missing(Exception):
    """A repository that the hub does not give; its message is the hub's library's."""


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
        name: Folder, or a repository on the hub.
        revision: Branch, tag or commit of a repository.
        kind: What the model is, in messages.
        argument: Argument of the codec or metric that may be set to a folder.
        install: Extra that brings the packages needed.
        patterns: Files of the repository that are fetched.
        instead: Another thing to do where the hub does not give it.

    Raises:
        ValueError: there is none, and the hub is needed but missing, unreachable, gated, or does
            not know the name.
    """
    if Path(name).is_dir():
        return Path(name)

    try:
        return _fetch(name, revision, kind, install, patterns)
    except Missing as error:
        raise ValueError(
            unreachable(name, revision, kind, argument, error, instead)
        ) from None


def snapshot(
    name: str,
    revision: str,
    *,
    kind: str,
    install: Extra,
    patterns: Sequence[str],
) -> Path:
    """The folder of a repository on the hub, in the local cache; arguments as for `folder_of`.

    Raises:
        ValueError: the hub is missing, unreachable, or does not give it; one line.
    """
    try:
        return _fetch(name, revision, kind, install, patterns)
    except Missing as error:
        raise ValueError(
            f"{kind} '{name}' ({revision}): the hub does not give it ({first_line(error)}); look "
            "at name, revision and network, and log in with `hf auth login` if it is not public"
        ) from None


def _fetch(
    name: str,
    revision: str,
    kind: str,
    install: Extra,
    patterns: Sequence[str],
) -> Path:
    """The local copy of a repository, fetched if need be.

    Raises:
        Missing: the hub does not give it.
        ValueError: its library is not installed.
    """
    with importing("huggingface_hub", needing=f"{kind} '{name}'", install=install):
        from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(patterns),
        )
    except Exception as error:  # those of its HTTP library differ by version
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise no_space(cache(), first_line(error)) from None
        raise Missing(refusal(error)) from None
    return Path(folder)


def cache() -> Path:
    """The folder in which the hub's library keeps what it fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def refusal(error: Exception) -> str:
    """Why the hub does not do something, as a clause."""
    from huggingface_hub import errors

    # What could not be asked, where nothing is in the cache either.
    if isinstance(error, errors.LocalEntryNotFoundError):
        if is_offline():
            return "it is not in the cache, and HF_HUB_OFFLINE is set"
        cause = error.__cause__ or error
    else:
        cause = error

    for kind, clause in (
        (
            errors.GatedRepoError,
            "it is gated: its terms have to be accepted on its page",
        ),
        (errors.DisabledRepoError, "it was disabled"),
        (errors.RevisionNotFoundError, "it has no such revision"),
        (
            errors.RepositoryNotFoundError,
            "there is no such repository, or it is private and not yours",
        ),
    ):
        if isinstance(cause, kind):
            return clause

    status = getattr(getattr(cause, "response", None), "status_code", None)
    if status == 401:
        return "the token of your login is not valid"
    if status:
        return f"the hub answers {status}"
    return first_line(cause)


def unreachable(
    name: str,
    revision: str | None,
    kind: str,
    argument: str,
    error: Exception,
    instead: str = "",
) -> str:
    """The message about a repository that cannot be had."""
    return (
        f"{kind} '{name}' ({revision or 'newest'}) is no folder, and the hub does not give it "
        f"({first_line(error)}); {instead}log in with `hf auth login` if it is gated, or set "
        f"`{argument}` to a local folder of the model"
    )


def is_offline() -> bool:
    """Whether the hub is not to be asked, by the environment's HF_HUB_OFFLINE."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def existing_paths(**arguments: str) -> dict[str, Path]:
    """Those of a codec's arguments whose values are paths of something that is there."""
    paths = {}
    for name, value in arguments.items():
        path = Path(value)
        if path.exists():
            paths[name] = path
    return paths
