"""Files that are read beside a sample's own, such as the materials of a mesh and their pictures.

A reader says by `note` which file it looks for, there or not; whoever keeps what was made of the
sample asks `noting`, and so learns later whether one of them has changed, came or went.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Stamps = dict[str, str]  # by path, what a file's stamp was

_NOTED: ContextVar[Stamps | None] = ContextVar("noted", default=None)


@contextmanager
def noting() -> Iterator[Stamps]:
    """A block whose readers' companions are noted, in what it gives."""
    stamps: Stamps = {}
    token = _NOTED.set(stamps)
    try:
        yield stamps
    finally:
        _NOTED.reset(token)


def note(path: str | os.PathLike) -> None:
    """Says, before it is read, that a file decides what is made of the sample at hand."""
    stamps = _NOTED.get()
    if stamps is not None:
        stamps.setdefault(os.fspath(path), stamp(path))


def stamp(path: str | os.PathLike) -> str:
    """Size and time of change of a file; nothing of one that is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # not there, or no name that a file can have
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"
