"""A dataset's files: found by one scan of its folders, then looked up by stem."""

import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from unicodedata import normalize

from flowbind.data.scan import LeftOut, scan
from flowbind.registry import installed, load

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".ogg")


class File(NamedTuple):
    """A file that a dataset should have.

    Its name, for messages and the list of what is missing, and its path, or None if it is missing.
    """

    name: str
    path: Path | None


class Files:
    """Files below some folders, by kind and stem. What the scan leaves out is said.

    Args:
        folders: Folders to scan.
        kinds: Suffixes of each kind, in lower case with the dot, those first that the dataset is
            distributed with; for a kind that is the name of an installed modality, all that this
            reads count, too.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folders: Iterable[Path], **kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.paths: dict[tuple[str, str], str] = {}
        # Further files of the same kind and stem.
        self.doubles: dict[tuple[str, str], list[str]] = {}

        folders = list(folders)
        kind_of = _kinds_by_suffix(kinds)
        left_out = LeftOut()
        for path in scan(folders, tuple(kind_of), left_out):
            stem, suffix = os.path.splitext(os.path.basename(path))
            kind = kind_of[suffix.lower()]
            key = (kind, normalize("NFC", stem))
            if self.paths.setdefault(key, path) != path:
                self.doubles.setdefault(key, []).append(path)

        left_out.tell(folders[0])

    def each(self, kind: str) -> list[Path]:
        """All files of a kind."""
        paths = []
        for key, path in self.paths.items():
            if key[0] == kind:
                paths.append(Path(path))
                doubles = self.doubles.get(key, ())
                paths.extend(map(Path, doubles))

        return paths

    def find(self, kind: str, *stems: str) -> File:
        """The file of a kind with the first of these stems that is there.

        Raises:
            ValueError: two files have it, so that nobody knows which one is meant.
        """
        for stem in stems:
            key = (kind, normalize("NFC", stem))
            path = self.paths.get(key)
            if key in self.doubles:
                double = self.doubles[key][0]
                raise ValueError(
                    f"two files for '{stem}', {path} and {double}; "
                    "keep one below the folder that is searched"
                )
            if path is not None:
                return File(stem, Path(path))

        suffix = self.kinds[kind][0]
        return File(stems[0] + suffix, None)


def below(folders: Iterable[Path], suffixes: Iterable[str]) -> list[str]:
    """Paths of all files below folders that have one of these suffixes, each folder's in order.

    What the scan leaves out is said.

    Args:
        folders: Folders to scan, at least one.
        suffixes: Suffixes in lower case with the dot.

    Raises:
        ValueError: there is no such folder.
    """
    folders = list(folders)
    left_out = LeftOut()
    paths = list(scan(folders, tuple(suffixes), left_out))
    left_out.tell(folders[0])
    return paths


def _kinds_by_suffix(kinds: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """The kind that each suffix tells; where two have it, one that `kinds` gives counts."""
    kind_of: dict[str, str] = {}
    for kind in kinds:
        if kind in installed("modalities"):
            suffixes = load("modalities", kind).suffixes
            kind_of |= dict.fromkeys(suffixes, kind)

    for kind, suffixes in kinds.items():
        kind_of |= dict.fromkeys(suffixes, kind)

    return kind_of


def checked(name: str, annotations: Path) -> str:
    """A file's name as annotations give it, relative to the dataset's folder.

    Raises:
        ValueError: it leads out of the dataset's folder.
    """
    path = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"{annotations}: the file name '{name}' leads out of the dataset's folder, "
            "which is refused"
        )

    return name
