"""Files: complete or not there, those that somebody else may have written, and their hashes.

Complete: written beside, brought to the disk, then renamed. A rename that is on the disk before the
content is would leave, after a power cut, an empty file under the right name. So the content is
synced first, then renamed, then the folder's entry is synced: only then is a save done.

Somebody else's: regular files alone, and none larger than its reader expects. A folder, a pipe or a
device in the place of a file is refused rather than waited for, and a file that is too large is
refused before it fills the memory.
"""

import codecs
import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

LARGEST = 2**30  # bytes, where a reader does not say
WEIGHTS = 2**38  # bytes of a network's weights
# How a file begins that stands for one that Git LFS has not fetched, and what to do.
POINTER = b"version https://git-lfs"
UNFETCHED = "a pointer of Git LFS in its place; `git lfs pull` fetches the file"
# Nanoseconds for which a file may change again without another time: clocks of disks are coarse.
FRESH = 2 * 10**9
# What a full disk, and a quota that is used up, are called.
FULL = (
    errno.ENOSPC,
    errno.EDQUOT,
)


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
    """Renames a file or folder that is complete.

    After a power cut all of it is there, or what was before. A folder can only take the place of
    nothing or of an empty folder.
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
        if (
            error.errno != errno.EINVAL
        ):  # a file system that cannot: there is nothing to wait for
            raise
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes the error of a full disk name the file.

    Errors of opening name it, those of writing do not.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            raise no_space(path, str(error.strerror)) from None
        raise


def is_pointer(path: Path) -> bool:
    """Whether a file stands for one that Git LFS has not fetched.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def no_space(path: Path, reason: str) -> OSError:
    """The error of a file for which there is no room."""
    free = shutil.disk_usage(existing(path)).free
    return OSError(
        f"{path}: cannot be written ({reason}; {free:,} bytes are free); "
        "free some space and run the same command again"
    )


def check_space(path: Path, needed: int) -> None:
    """Refuses to begin a file or folder that the disk has no room for.

    Args:
        path: File or folder to be written.
        needed: Size of it in bytes.

    Raises:
        OSError: less than that is free.
    """
    if shutil.disk_usage(existing(path)).free < needed:
        raise no_space(path, f"{needed:,} bytes are needed")


def check_place(path: Path, folder: bool = False) -> None:
    """Refuses a path where a file, or a folder, could not be written.

    Raises:
        ValueError: the other of the two is there, or a file stands where a folder should be.
        OSError: the folder that is to hold it may not be written to.
    """
    if path.exists() and path.is_dir() != folder:
        expected = "a folder" if folder else "a file"
        present = "a file" if folder else "a folder"
        raise ValueError(
            f"{path}: is to be written as {expected}, but {present} of that name is there; move it "
            "away"
        )

    places = [existing(path.parent)]
    if folder and path.exists():
        places.insert(0, path)
    for place in places:
        if not place.is_dir():
            raise ValueError(
                f"{path}: cannot be written, for {place} is a file; choose another folder"
            )
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(
                errno.EACCES,
                "no permission to write here; choose another folder",
                str(place),
            )


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def check_regular(path: str | Path, largest: int = LARGEST) -> int:
    """Refuses anything but a regular file of at most `largest` bytes, without opening it.

    Returns:
        Its size in bytes.

    Raises:
        OSError: it is not there.
        ValueError: it is something else than a regular file, or larger; one line that names it.
    """
    try:
        status = os.stat(path)
    except ValueError:  # zeros, or halves of characters
        raise ValueError(f"{str(path)!r}: no name that a file can have") from None

    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: not a file, but a folder, a pipe or a device")
    if status.st_size > largest:
        raise ValueError(
            f"{path}: a file of {status.st_size} bytes, allowed here are {largest}"
        )
    return status.st_size


def open_regular(path: str | Path, largest: int = LARGEST) -> BufferedReader:
    """Opens a regular file of at most `largest` bytes for reading.

    Raises as `check_regular` does, and what `open` raises.
    """
    check_regular(path, largest)
    return Path(path).open("rb")


def read_regular(path: str | Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file; raises as `open_regular` does."""
    with open_regular(path, largest) as file:
        return file.read()


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """The value of a JSON file.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is no regular file, larger, or not JSON; one line that names it.
    """
    content = read_regular(path, largest)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path}: not JSON ({reason})") from None


def write_json(path: Path, value: Any) -> None:
    """Writes a value as a JSON file, beside and renamed.

    Raises:
        OSError: it cannot be written.
    """
    content = json.dumps(value, indent=1) + "\n"
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")


def encoding_of(path: str | Path) -> str:
    """The encoding of a text file, for `open`.

    UTF-16 where a byte-order mark says so, otherwise UTF-8, with a mark or without.
    """
    with open_regular(path, sys.maxsize) as file:
        start = file.read(2)
    return (
        "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    )


def digest_all(paths: Iterable[Path]) -> str:
    """SHA-256 of several files, in hexadecimal: of their digests in this order."""
    digests = "".join(map(digest, paths))
    return hashlib.sha256(digests.encode()).hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is no regular file, or larger than any weights.
    """
    check_regular(path, WEIGHTS)
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < FRESH:
        return digest_now(path)
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, modified: int) -> str:
    """The SHA-256 of a file that has not changed since it was computed, by size and time."""
    return digest_now(path)


def digest_now(path: Path, largest: int = sys.maxsize) -> str:
    """SHA-256 of a file, in hexadecimal, as it is at this moment, computed in any case."""
    with open_regular(path, largest) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
