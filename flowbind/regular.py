"""Files that somebody else may have written, opened: regular ones alone, and none larger than its reader expects.

A folder, a pipe or a device in the place of a file is refused rather than waited for, and a file that is too large is
refused before it fills the memory.
"""

import codecs
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 2**30  # bytes, where a reader does not say
WEIGHTS = 2**38  # bytes of a network's weights


def check_regular(path: str | Path, largest: int = LARGEST) -> int:
    """Refuses anything but a regular file of at most `largest` bytes, without opening it. Returns its size in bytes.

    Raises:
        OSError: it is not there.
        ValueError: it is something else than a regular file, or larger; one line that names it.
    """
    try:
        found = os.stat(path)
    except ValueError:  # zeros, or halves of characters
        raise ValueError(f"{str(path)!r}: no name that a file can have") from None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: not a file, but a folder, a pipe or a device")
    if found.st_size > largest:
        raise ValueError(f"{path}: a file of {found.st_size} bytes, allowed here are {largest}")
    return found.st_size


def open_regular(path: str | Path, largest: int = LARGEST) -> BinaryIO:
    """Opens a regular file of at most `largest` bytes for reading; raises as `check_regular` does, and what `open` does."""
    check_regular(path, largest)
    return Path(path).open("rb")


def read_regular(path: str | Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file; raises as `open_regular` does."""
    with open_regular(path, largest) as file:
        return file.read()


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: it is no regular file, larger, or not JSON; one line that names it.
    """
    content = read_regular(path, largest)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({str(error).splitlines()[0]})") from None


def encoding_of(path: str | Path) -> str:
    """The encoding of a text file, for `open`: UTF-16 where a byte-order mark says so, otherwise UTF-8, with a mark or without."""
    with open_regular(path, sys.maxsize) as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
