"""Giving a released model away: to a repository of the Hugging Face hub, or as one file.

What leaves is safetensors, JSON and the texts of tokenizers, with a card; nothing that can run code.
"""

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowbind.card import CARD, PICTURE, Card
from flowbind.files import replacing
from flowbind.hub import FILES, is_offline, refusal
from flowbind.libraries import Extra, importing
from flowbind.release import CODECS, CONFIG, WEIGHTS, verify

SUFFIXES = tuple(pattern.removeprefix("*") for pattern in FILES)
# The earliest time that a zip archive can tell: the same model gives the same archive.
EPOCH = (1980, 1, 1, 0, 0, 0)
# How names of files begin that any repository may have.
BARE = (".git", "README", "LICENSE")
READABLE = 0o644 << 16  # mode of a file in an archive


class Occupied(ValueError):
    """A repository holds something else than a model of flowbind."""


def files_of(folder: Path, card: Card) -> dict[str, Path | bytes]:
    """What is given away, by its place: all that the model's description names, and the card.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: it is no released model, changed since it was written, or has a file of a kind
            that is not given away; one line.
    """
    verify(folder)

    paths = [folder / CONFIG, folder / WEIGHTS]
    paths += sorted(path for path in (folder / CODECS).rglob("*") if path.is_file())
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path}: allowed in a model that is given away are {', '.join(SUFFIXES)}; others "
                "may run code. Convert it, or take a codec without it"
            )

    contents: dict[str, Path | bytes] = {CARD: card.content.encode()}
    for path in paths:
        contents[path.relative_to(folder).as_posix()] = path
    if card.picture:
        contents[PICTURE] = card.picture
    return contents


def push(
    contents: Mapping[str, Path | bytes],
    repository: str,
    private: bool = False,
) -> str:
    """Brings files into a repository of the hub, as one commit; it is made if it is not there.

    Files of a model that was there before, and is not now, go.

    Args:
        contents: Files by their place.
        repository: Name on the hub, `OWNER/NAME`.
        private: Whether a repository that is made now is for its owner alone.

    Returns:
        The commit.

    Raises:
        ValueError: the hub cannot be reached, or refuses it, or the repository holds something
            else; one line that says what to do.
    """
    if is_offline():
        raise ValueError(
            f"'{repository}': nothing can be pushed while HF_HUB_OFFLINE is set; unset it"
        )

    with importing("huggingface_hub", needing="pushing a model", install=Extra("hub")):
        from huggingface_hub import (
            CommitOperationAdd,
            CommitOperationDelete,
            HfApi,
        )

    api = HfApi(library_name="flowbind")
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for place, content in contents.items():
        operations.append(CommitOperationAdd(place, content))

    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        places = api.list_repo_files(repository)
        check_repository(repository, places)
        for place in places:
            if place.startswith(f"{CODECS}/") and place not in contents:
                operations.append(CommitOperationDelete(place))

        commit = api.create_commit(
            repository,
            operations,
            commit_message="A model of flowbind",
        )
    except Occupied:
        raise
    except Exception as error:  # those of its HTTP library differ by version
        reason = refusal(error)
        raise ValueError(
            f"'{repository}': the hub does not take it ({reason}); log in with "
            "`hf auth login` as somebody who may write there, and look at the network"
        ) from None
    return commit.oid


def check_repository(repository: str, places: Sequence[str]) -> None:
    """Refuses a repository that holds something else than a model of flowbind.

    Raises:
        Occupied: it has files, and no description of a model.
    """
    others = [place for place in places if not place.startswith(BARE)]
    if others and CONFIG not in places:
        raise Occupied(
            f"'{repository}': it holds something else than a model of flowbind "
            f"({', '.join(others[:3])}); choose another name"
        )


def pack(contents: Mapping[str, Path | bytes], name: str, path: Path) -> None:
    """Writes files as one zip archive, within a folder; the same files give the same bytes.

    Args:
        contents: Files by their place.
        name: Folder that unpacking makes.
        path: Archive to write.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for place, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{name}/{place}", EPOCH)
            entry.external_attr = READABLE

            with archive.open(entry, "w", force_zip64=True) as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target)
