"""One process at a time in a folder.

The lock is the system's, on the folder itself: it leaves no file behind, and goes with the process,
however that ends.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 2.0  # seconds for which a process that was just killed may still be ending

# Folders that this process has for itself, by device and inode, and the handle of each.
_HELD: dict[tuple[int, int], int] = {}


@contextmanager
def alone_in(folder: Path, work: str) -> Iterator[None]:
    """Keeps an existing folder for this process, until the block ends.

    Within such a block it may be asked for again. On file systems that have no locks it does
    nothing.

    Args:
        folder: Folder whose content is going to change.
        work: What changes it, such as `training`.

    Raises:
        ValueError: another process does.
    """
    handle = os.open(folder, os.O_RDONLY)
    status = os.fstat(handle)
    place = status.st_dev, status.st_ino
    if place in _HELD or not _lock(handle, folder, work):
        os.close(handle)
        yield
        return

    _HELD[place] = handle
    try:
        yield
    finally:
        os.close(_HELD.pop(place))


def _lock(handle: int, folder: Path, work: str) -> bool:
    """Locks an open folder; False where that cannot be done."""
    end = time.monotonic() + PATIENCE

    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.05)
                continue

            os.close(handle)
            raise ValueError(
                f"{folder}: another process is {work} in it; "
                "wait until that has ended, or choose another folder"
            ) from None
        except OSError:
            return False


def _leave() -> None:
    """A fork, such as a process that loads data, must not keep its parent's folders."""
    while _HELD:
        os.close(_HELD.popitem()[1])


os.register_at_fork(after_in_child=_leave)
