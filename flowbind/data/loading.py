"""A loader of batches that counts how long it kept training waiting."""

import time
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

END = object()


class TimedLoader(DataLoader):
    """A DataLoader.

    Attributes:
        waited: Seconds that were spent waiting for its batches, since it was made.
    """

    waited = 0.0

    # Torch's types name the class of its own iterators.
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        while True:
            begin = time.perf_counter()
            batch = next(batches, END)
            self.waited += time.perf_counter() - begin
            if batch is END:
                return
            yield batch
