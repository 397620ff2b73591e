"""Many files in memory as one: rows that lie anywhere in any of them come by a single copy, without a loop over files.

A row is known by its address. Maps hold no file descriptors, of which a process has few (often 1,024): those of a large
store would not do. The pages are the system's cache: it reads them when they are touched and takes them back.
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
        files: path and size in bytes of each, at least one.
        scattered: read only the pages that are asked for, all those of a call side by side. The system by default reads
            what lies around them too, which pays as long as all of it will be in memory; so None means: for files that
            take more than half of this machine's memory.

    Raises:
        OSError: the system does not map that many files, or not this one.
    """

    def __init__(self, files: Iterable[tuple[Path, int]], scattered: bool | None = None) -> None:
        held = []
        for path, size in files:
            try:
                held.append(
                    torch.UntypedStorage.from_file(str(path), False, size)
                )  # private, and never written to
            except RuntimeError as error:
                raise OSError(
                    f"{path}: cannot be mapped into memory after {len(held)} other files ({first_line(error)}); "
                    "if that is the system's limit (Linux: vm.max_map_count), raise it or encode into larger shards"
                ) from None
        self._held = held  # they unmap themselves when they go
        self.addresses = np.array(
            [storage.data_ptr() for storage in held]
        )  # of each file's first byte
        first = held[self.addresses.argmin()]
        self._base = torch.empty(0, dtype=torch.uint8).set_(first).numpy()
        self._span = (
            max(storage.data_ptr() + storage.nbytes() for storage in held) - first.data_ptr()
        )
        if scattered is None:
            scattered = (
                hasattr(mmap, "MADV_RANDOM") and sum(s.nbytes() for s in held) > _memory() / 2
            )
        self.scattered = scattered
        if scattered:
            for storage in held:
                _advise(storage.data_ptr(), storage.nbytes(), mmap.MADV_RANDOM)

    def rows(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Copies `size` bytes from each address, with shape (n,), to bytes, with shape (n, size).

        Every address must lie in a file, and `size` bytes before its end: elsewhere there may be no memory.
        """
        if self.scattered:
            pages = addresses - addresses % mmap.PAGESIZE
            for page, length in zip(
                pages.tolist(), (addresses + size - pages).tolist(), strict=True
            ):
                _advise(
                    page, length, mmap.MADV_WILLNEED
                )  # returns at once: the disk reads them side by side
        # Windows at every byte from the first file on; only those asked for are ever looked at.
        shape = (self._span - size + 1, size)
        windows = np.lib.stride_tricks.as_strided(self._base, shape, (1, 1), writeable=False)
        return windows[addresses - self._base.ctypes.data]


def _memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _advise(address: int, size: int, advice: int) -> None:
    _LIBC.madvise(
        ctypes.c_void_p(address), ctypes.c_size_t(size), advice
    )  # advice alone: nothing to do if refused


_LIBC = ctypes.CDLL(None) if os.name == "posix" else None
