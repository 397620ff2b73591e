"""Files below folders, found by one walk.

Links are followed; what no person put there is left out, and that is counted. Names come sorted,
folder by folder, so that the same files give the same list on any disk.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flowbind.progress import say, track

PREPARED = "prepared.json"  # marks a folder that `flowbind prepare` wrote
PARTIAL = ".partial"  # ends its name until it is whole
# Folders of file servers and operating systems: trash, thumbnails, copies; names in lower case.
SYSTEM = frozenset(
    (
        "@eadir",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "~snapshot",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
    )
)


class LeftOut:
    """What a scan left out: by reason how many, and the first of each."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.examples: dict[str, str] = {}

    def add(self, reason: str, path: str, count: int = 1) -> None:
        """Counts files or folders that are left out for a reason.

        The reason says what they are, in plural.
        """
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.examples.setdefault(reason, path)

    def tell(self, where: Path) -> None:
        """Says a line for each reason; examples begin where the folder does."""
        for reason, count in sorted(self.counts.items()):
            top = root_of(where) + os.sep
            example = self.examples[reason].removeprefix(top)
            say(f"{where}: left out {count}: {reason}, such as {readable(example)}")


def readable(path: str) -> str:
    """A path as it can be printed, its bytes that are no UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def scan(
    folders: Iterable[Path],
    suffixes: Sequence[str],
    left_out: LeftOut,
    others: bool = False,
) -> Iterator[str]:
    """Paths of the files below folders that end in one of these suffixes, whatever their case.

    Paths begin with what `root_of` gives for the folder. A folder that is reached twice, by links
    or because one of `folders` lies in another, is gone through once. Files of no byte are left
    out, for they hold no sample.

    Args:
        folders: Folders to go through.
        suffixes: Suffixes in lower case with the dot.
        left_out: Counts that receive what is left out.
        others: Whether files with other suffixes are counted among that.

    Raises:
        ValueError: there is no such folder.
    """
    seen: set[tuple[int, int]] = set()
    for top in folders:
        if not top.is_dir():
            raise ValueError(f"{top}: no such folder")

        walk = _Walk(
            root_of(top),
            suffixes=tuple(suffixes),
            left_out=left_out,
            others=others,
            seen=seen,
        )
        yield from track(walk.files(), f"scanning {top}", unit="files")
        walk.say_of_links()


def root_of(folder: Path) -> str:
    """A folder's absolute path as it was given, links included.

    These may lead elsewhere one day. Where the path goes up behind a link, it is the real path, for
    that is the only one that keeps its meaning.
    """
    path = os.path.abspath(folder)
    if os.path.exists(path) and os.path.samefile(path, folder):
        return path
    return os.path.realpath(folder)


class _Walk:
    """One folder's walk; `seen` has device and number of each folder that was gone through."""

    def __init__(
        self,
        top: str,
        suffixes: tuple[str, ...],
        left_out: LeftOut,
        others: bool,
        seen: set[tuple[int, int]],
    ) -> None:
        self.top = top
        self.real = os.path.realpath(top)
        self.suffixes = suffixes
        self.left_out = left_out
        self.others = others
        self.seen = seen
        self.outside: list[str] = []  # links that lead out of the top folder

    def files(self) -> Iterator[str]:
        """Paths of the files to take, folder by folder."""
        todo = [self.top]
        while todo:
            folders = []
            for entry in self._open(todo.pop()):
                if self._is_hidden(entry):
                    continue

                kind = self._kind(entry)
                if kind == "folder":
                    folders.append(entry.path)
                elif kind == "file":
                    yield entry.path
            todo += reversed(folders)

    def _open(self, folder: str) -> list[os.DirEntry]:
        """What a folder holds, sorted; nothing of one that is left out."""
        try:
            status = os.stat(folder)
            identity = status.st_dev, status.st_ino
            if identity in self.seen:
                if folder != self.top:
                    self._leave(
                        "folders that were gone through before, by a link",
                        folder,
                    )
                return []

            self.seen.add(identity)
            with os.scandir(folder) as iterator:
                entries = sorted(iterator, key=lambda entry: entry.name)
        except OSError as error:
            self._leave(f"folders that cannot be opened ({error.strerror})", folder)
            return []

        if folder != self.top and any(entry.name == PREPARED for entry in entries):
            self._leave("folders that `flowbind prepare` wrote", folder)
            return []

        return entries

    def _is_hidden(self, entry: os.DirEntry) -> bool:
        if entry.name.startswith("."):
            self._leave("hidden files and folders", entry.path)
        elif not _is_utf8(entry.name):
            self._leave(
                "files and folders whose names are not UTF-8 (rename them)",
                entry.path,
            )
        else:
            return False
        return True

    def _kind(self, entry: os.DirEntry) -> str | None:
        """Whether an entry is a folder or a file to take; None if neither."""
        try:
            if entry.is_dir():
                return self._folder(entry)
            # A link may lead to a folder, so its suffix says nothing.
            if entry.is_symlink() and not os.path.exists(entry.path):
                self._leave("links that lead nowhere", entry.path)
                return None
            if not entry.name.lower().endswith(self.suffixes):
                self._leave_other(entry)
                return None
            status = entry.stat()
        except OSError as error:
            if entry.is_symlink() and error.errno in (errno.ELOOP, errno.ENOENT):
                reason = "links that lead nowhere"
            elif isinstance(error, FileNotFoundError):
                reason = "files that vanished"
            else:
                reason = f"files that cannot be looked at ({error.strerror})"
            self._leave(reason, entry.path)
            return None

        if not stat.S_ISREG(status.st_mode):
            self._leave("pipes, sockets and devices", entry.path)
        elif not status.st_size:
            self._leave("empty files", entry.path)
        else:
            return "file"
        return None

    def _folder(self, entry: os.DirEntry) -> str | None:
        if entry.name.casefold() in SYSTEM:
            self._leave(
                "folders of the system (trash, thumbnails, snapshots)",
                entry.path,
            )
            return None

        if entry.is_symlink():
            target = os.path.realpath(entry.path) + os.sep
            if not target.startswith(self.real + os.sep):
                self.outside.append(entry.path)
        return "folder"

    def _leave_other(self, entry: os.DirEntry) -> None:
        if self.others:
            _, suffix = os.path.splitext(entry.name)
            suffix = suffix.lower()
            ending = f"the suffix '{suffix}'" if suffix else "no suffix"
            self._leave(
                f"files with {ending}, which no installed modality reads",
                entry.path,
            )

    def _leave(self, reason: str, path: str) -> None:
        self.left_out.add(reason, path)

    def say_of_links(self) -> None:
        """Says how many linked folders lead elsewhere.

        They are followed, and whoever reads that may not have known.
        """
        if self.outside:
            first = self.outside[0]
            target = readable(os.path.realpath(first))
            more = len(self.outside) - 1
            others = f", and {more} more such links" if more else ""
            say(
                f"{readable(first)}: a link that leads out of the folder, to {target}; it is "
                f"followed{others}"
            )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
