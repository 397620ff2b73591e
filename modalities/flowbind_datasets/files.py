"""A dataset's files: found by one scan of its folders, then looked up by stem."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from unicodedata import normalize

from flowbind.progress import say, track

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".ogg")


class File(NamedTuple):
    """A file that a dataset should have: the name it is missed by, and where it is, or None if it is not there."""

    name: str
    path: Path | None


class Files:
    """Files below some folders, by kind and stem.

    Args:
        folders: that are scanned.
        kinds: suffixes of each kind, in lower case with the dot.

    Raises:
        ValueError: there is no such folder.
    """

    def __init__(self, folders: Iterable[Path], **kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self.paths: dict[tuple[str, str], str] = {}
        self.doubles: dict[tuple[str, str], list[str]] = {}  # further files of the same kind and stem
        kind_of = {suffix: kind for kind, suffixes in kinds.items() for suffix in suffixes}
        for path in scan(folders, tuple(kind_of)):
            stem, suffix = os.path.splitext(os.path.basename(path))
            key = kind_of[suffix.lower()], normalize("NFC", stem)
            if self.paths.setdefault(key, path) != path:
                self.doubles.setdefault(key, []).append(path)

    def each(self, kind: str) -> list[Path]:
        """All files of a kind."""
        paths = [[path, *self.doubles.get(key, ())] for key, path in self.paths.items() if key[0] == kind]
        return [Path(path) for group in paths for path in group]

    def find(self, kind: str, *stems: str) -> File:
        """The file of a kind with the first of these stems that is there.

        Raises:
            ValueError: two files have it, so that nobody knows which one is meant.
        """
        for stem in stems:
            key = kind, normalize("NFC", stem)
            if key in self.doubles:
                raise ValueError(
                    f"two files for '{stem}', {self.paths[key]} and {self.doubles[key][0]}; keep one below the folder that is searched"
                )
            if key in self.paths:
                return File(stem, Path(self.paths[key]))
        return File(stems[0] + self.kinds[kind][0], None)


def scan(folders: Iterable[Path], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Paths of the files below folders that have one of these suffixes, sorted folder by folder.

    They begin with the folder's real path. Links below it are followed, each folder is visited once, and what is hidden is
    left aside.

    Raises:
        ValueError: there is no such folder.
    """
    seen: set[str] = set()
    for top in folders:
        if not top.is_dir():
            raise ValueError(f"{top}: no such folder")
        names = _walk(os.path.realpath(top), seen)
        yield from (path for path in track(names, f"scanning {top}") if path.lower().endswith(suffixes))


def _walk(top: str, seen: set[str]) -> Iterator[str]:
    for root, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        if not (real + os.sep).startswith(top + os.sep):
            say(f"{root}: a link that leads out of the folder, to {real}; it is followed")
        yield from (os.path.join(root, name) for name in sorted(names) if not name.startswith("."))


def checked(name: str, annotations: Path) -> str:
    """A file's name as annotations give it.

    Raises:
        ValueError: it leads out of the dataset's folder.
    """
    path = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{annotations}: the file name '{name}' leads out of the dataset's folder, which is refused")
    return name
