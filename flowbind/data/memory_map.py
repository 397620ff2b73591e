"""Many files in memory as one: rows that lie anywhere in any of them come by a single copy.

No loop over files is needed. A row is known by its address. Maps hold no file descriptors, of which
a process has few (often 1,024): those of a large store would not do. The pages are the system's
cache: it reads them when they are touched and takes them back.
"""

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from flowbind.errors import first_line


class Mapped:
    """Files mapped into memory, to be read only.

    Args:
        files: Path and size in bytes of each file, at least one.
        scattered: Whether only the pages that are asked for are read, all those of a call side by
            side. The system by default reads what lies around them too, which pays as long as all
            of it will be in memory; so None means: for files that take more than half of this
            machine's memory.

    Attributes:
        addresses: Address of each file's first byte, int64 with shape (files,).

    Raises:
        OSError: the system does not map that many files, or not this one.
    """

    def __init__(
        self,
        files: Iterable[tuple[Path, int]],
        scattered: bool | None = None,
    ) -> None:
        self._storages: list[
            torch.UntypedStorage
        ] = []  # they unmap themselves when they go
        for path, size in files:
            others = len(self._storages)
            self._storages.append(_map(path, size, others))

        # The address of each file's first byte, and memory from the lowest of them to the last
        # file's end.
        self.addresses = np.array([storage.data_ptr() for storage in self._storages])
        first = self._storages[self.addresses.argmin()]
        self._base = torch.empty(0, dtype=torch.uint8).set_(first).numpy()
        ends = [storage.data_ptr() + storage.nbytes() for storage in self._storages]
        self._span = max(ends) - first.data_ptr()

        if scattered is None:
            mapped = sum(storage.nbytes() for storage in self._storages)
            has_advice = hasattr(mmap, "MADV_RANDOM")
            scattered = has_advice and mapped > _memory() / 2

        self.scattered = scattered
        if scattered:
            for storage in self._storages:
                _advise(storage.data_ptr(), storage.nbytes(), mmap.MADV_RANDOM)

    def rows(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Copies `size` bytes from each address, with shape (n,), to bytes, with shape (n, size).

        Every address must lie in a file, and `size` bytes before its end: elsewhere there may be no
        memory.
        """
        if self.scattered:
            pages = addresses - addresses % mmap.PAGESIZE
            lengths = addresses + size - pages
            for page, length in zip(pages.tolist(), lengths.tolist(), strict=True):
                # It returns at once: the disk reads them side by side.
                _advise(page, length, mmap.MADV_WILLNEED)

        # Windows at every byte from the first file on; only those asked for are ever looked at.
        shape = (self._span - size + 1, size)
        windows = np.lib.stride_tricks.as_strided(
            self._base,
            shape,
            (1, 1),
            writeable=False,
        )
        return windows[addresses - self._base.ctypes.data]


def _map(path: Path, size: int, others: int) -> torch.UntypedStorage:
    """A file mapped into memory, after so many others; private, and never written to.

    Raises:
        OSError: the system does not map it.
    """
    try:
        storage = torch.UntypedStorage.from_file(str(path), False, size)
    except RuntimeError as error:
        raise OSError(
            f"{path}: cannot be mapped into memory after {others} other files "
            f"({first_line(error)}); if that is the system's limit (Linux: vm.max_map_count), "
            "raise it or encode into larger shards"
        ) from None
    return storage  # type: ignore[return-value]  # torch's types name a base of its class


def _memory() -> int:
    """Bytes of this machine's memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_PHYS_PAGES")


def _advise(address: int, size: int, advice: int) -> None:
    # Advice alone: there is nothing to do if it is refused.
    start = ctypes.c_void_p(address)
    if _LIBC is not None:
        _LIBC.madvise(start, ctypes.c_size_t(size), advice)


_LIBC = ctypes.CDLL(None) if os.name == "posix" else None
