"""Latents kept on the device: a batch is then made there, of row numbers alone."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind.data.store import LatentStore

SHARE = 0.5  # of a device's free memory that latents may take; the networks need the rest
CHUNK_ROWS = 65_536  # copied at a time, so that the host never holds all


class RowNumbers(NamedTuple):
    """What a loader gives for one step: its number, and row numbers, stratum after stratum, with shape (n,)."""

    step: int
    rows: Tensor


class Resident:
    """The latents of a store on a device.

    Args:
        store: where they are.
        names: modalities that are kept.
        device: that receives them.
    """

    def __init__(self, store: LatentStore, names: Collection[str], device: torch.device) -> None:
        self.latents: dict[tuple[int, str], Tensor] = {}
        for number, stratum in enumerate(store.strata):
            for name in filter(names.__contains__, stratum.modalities):
                chunks = (
                    store.gather(
                        number, np.arange(start, min(start + CHUNK_ROWS, stratum.rows)), [name]
                    )[name]
                    for start in range(0, stratum.rows, CHUNK_ROWS)
                )
                first = next(chunks)
                whole = torch.empty(
                    stratum.rows, *first.shape[1:], dtype=first.dtype, device=device
                )
                whole[: len(first)], filled = first, len(first)
                for chunk in chunks:
                    whole[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
                self.latents[number, name] = whole

    def gather(self, stratum: int, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Rows of one stratum: per name a tensor with shape (len(rows), *shape), on the device."""
        return {name: self.latents[stratum, name][rows] for name in names}


def fits(store: LatentStore, names: Collection[str], device: torch.device) -> bool:
    """Whether a GPU has room for the latents. Never on a CPU: memory maps do as well there."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return store.bytes_of(names) < SHARE * free
