"""Many files in memory as one: rows that lie anywhere in any of them come by a single copy, without a loop over files.

A row is known by its address. Maps hold no file descriptors, of which a process has few (often 1,024): those of a large
store would not do. The pages are the system's cache; it reads them when they are touched and takes them back.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch


class Mapped:
    """Files mapped into memory, to be read only.

    Args:
        files: path and size in bytes of each, at least one.

    Raises:
        OSError: the system does not map that many files, or not this one.
    """

    def __init__(self, files: Iterable[tuple[Path, int]]) -> None:
        held = []
        for path, size in files:
            try:
                held.append(torch.UntypedStorage.from_file(str(path), False, size))  # private, and never written to
            except RuntimeError as error:
                raise OSError(
                    f"{path}: cannot be mapped into memory after {len(held)} other files ({str(error).splitlines()[0]}); "
                    "if that is the system's limit (Linux: vm.max_map_count), raise it or encode into larger shards"
                ) from None
        self._held = held  # they unmap themselves when they go
        self.addresses = np.array([storage.data_ptr() for storage in held])  # of each file's first byte
        first = held[self.addresses.argmin()]
        self._base = torch.empty(0, dtype=torch.uint8).set_(first).numpy()
        self._span = max(storage.data_ptr() + storage.nbytes() for storage in held) - first.data_ptr()

    def rows(self, addresses: np.ndarray, size: int) -> np.ndarray:
        """Copies `size` bytes from each address, with shape (n,), to bytes, with shape (n, size).

        Every address must lie in a file, and `size` bytes before its end: elsewhere there may be no memory.
        """
        # Windows at every byte from the first file on; only those asked for are ever looked at.
        shape = (self._span - size + 1, size)
        windows = np.lib.stride_tricks.as_strided(self._base, shape, (1, 1), writeable=False)
        return windows[addresses - self._base.ctypes.data]
