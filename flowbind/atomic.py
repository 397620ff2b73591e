"""Whole files or none: written beside, brought to the disk, then renamed.

A rename that is on the disk before the content is would leave, after a power cut, an empty file
under the right name. So the content is synced first, then renamed, then the folder's entry is
synced: only then is a save done.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk, and a quota that is used up, are called


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a file beside `path` to write to, which takes its place when the block ends.

    If the block fails, the file goes, and what was there before stays.

    Raises:
        OSError: the folder cannot be made or written; where the disk is full, it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.touch()
    mode = partial.stat().st_mode

    try:
        with naming(path):
            yield partial
            partial.chmod(mode)  # safetensors leaves its files readable by nobody else
            commit(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def commit(partial: Path, path: Path) -> None:
    """Renames a file or folder that is complete: after a power cut all of it is there, or what was before.

    A folder can only take the place of nothing or of an empty folder.
    """
    for part in [*partial.rglob("*"), partial] if partial.is_dir() else [partial]:
        _sync(part)
    os.replace(partial, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Brings a file's content, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot: there is nothing to wait for
            raise
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes the error of a full disk say which file: those of writing, unlike those of opening, do not."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise no_space(path, error.strerror) from None
        raise


def no_space(path: Path, reason: str) -> OSError:
    """The error of a file for which there is no room."""
    free = shutil.disk_usage(_existing(path)).free
    return OSError(
        f"{path}: cannot be written ({reason}; {free:,} bytes are free); free some space and run the "
        "same command again"
    )


def check_space(path: Path, needed: int) -> None:
    """Refuses to begin a file or folder that the disk has no room for.

    Args:
        path: that is to be written.
        needed: its size in bytes.

    Raises:
        OSError: less than that is free.
    """
    if shutil.disk_usage(_existing(path)).free < needed:
        raise no_space(path, f"{needed:,} bytes are needed")


def check_place(path: Path, folder: bool = False) -> None:
    """Refuses a path where a file, or a folder, could not be written.

    Raises:
        ValueError: the other of the two is there, or a file stands where a folder should be.
        OSError: the folder that is to hold it may not be written to.
    """
    if path.exists() and path.is_dir() != folder:
        kinds = ("a folder", "a file") if folder else ("a file", "a folder")
        raise ValueError(
            f"{path}: is to be written as {kinds[0]}, but {kinds[1]} of that name is there; move it "
            "away"
        )

    for place in filter(None, (path if folder and path.exists() else None, _existing(path.parent))):
        if not place.is_dir():
            raise ValueError(
                f"{path}: cannot be written, for {place} is a file; choose another folder"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(
                errno.EACCES, "no permission to write here; choose another folder", str(place)
            )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
