"""Samples that take much memory to be read are read in turns, by all processes of a user.

A reader says by `weigh` what it is going to take. While what one sample weighs is no more than
`LIGHT`, nobody waits; beyond that it is read alone. So n readers take the memory of one heavy
sample and of n - 1 light ones.

The lock is the system's, on an empty file in the folder of temporary files. It goes with the
process, however that ends. Where there is none, as on a disk without room, nobody waits.
"""

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIGHT = 2**28  # bytes of memory that reading one sample may take beside others


class _Reading(threading.local):
    """Of a thread: how deep in `one_sample` it is, the bytes weighed, and the turn's handle."""

    depth = 0
    weight = 0
    handle: int | None = None


_READING = _Reading()


@contextmanager
def one_sample() -> Iterator[None]:
    """A block that reads one sample. Other heavy ones wait until it ends."""
    _READING.depth += 1
    try:
        yield
    finally:
        _READING.depth -= 1
        if not _READING.depth:
            _leave()


def weigh(size: int) -> None:
    """Says how many bytes of memory a part of reading is going to take.

    If that makes the sample heavy, it waits for a turn. Outside of `one_sample` it does nothing.
    """
    if not _READING.depth:
        return

    _READING.weight += size
    if _READING.weight > LIGHT and _READING.handle is None:
        _READING.handle = _wait()


def lock_file() -> Path:
    """The file by which the processes of one user on one machine wait for one another."""
    folder = Path(tempfile.gettempdir())
    return folder / f"flowbind-{os.getuid()}.lock"


def _wait() -> int | None:
    """Waits for a turn, and returns its handle; None where there can be no lock."""
    try:
        handle = os.open(lock_file(), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None

    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except BaseException as error:
        os.close(handle)
        if not isinstance(error, OSError):  # such as Ctrl-C
            raise
        return None
    return handle


def _leave() -> None:
    """Ends the reading of a sample, and its turn."""
    handle = _READING.handle
    _READING.handle = None
    _READING.weight = 0
    if handle is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)  # for a fork that has the handle, too
        os.close(handle)
