"""Latents kept on the device: a batch is then made there, of row numbers alone."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowbind.data.store import LatentStore

# Of a device's free memory that latents may take; the networks need the rest.
SHARE = 0.5
CHUNK_ROWS = 65_536  # copied at a time, so that the host never holds all


class RowNumbers(NamedTuple):
    """What a loader gives for one step.

    That is its number, and row numbers, stratum after stratum, int64 with shape (n,).
    """

    step: int
    rows: Tensor


class Resident:
    """The latents of a store on a device.

    Args:
        store: Store of the latents.
        names: Modalities whose latents are copied.
        device: Device that receives them.
    """

    def __init__(
        self,
        store: LatentStore,
        names: Collection[str],
        device: torch.device,
    ) -> None:
        self.latents: dict[tuple[int, str], Tensor] = {}
        for number, stratum in enumerate(store.strata):
            for name in stratum.modalities:
                if name in names:
                    latents = copy_to(device, store, number, name)
                    self.latents[number, name] = latents

    def gather(
        self,
        stratum: int,
        rows: Tensor,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        """Rows of one stratum: per name a tensor with shape (len(rows), *shape), on the device."""
        return {name: self.latents[stratum, name][rows] for name in names}


def copy_to(
    device: torch.device,
    store: LatentStore,
    stratum: int,
    name: str,
) -> Tensor:
    """The latents of one modality in one stratum, with shape (rows, *shape), on a device.

    They are copied chunk by chunk.
    """
    rows = store.strata[stratum].rows
    empty = store.gather(stratum, np.arange(0), [name])
    template = empty[name]
    latents = torch.empty(
        rows,
        *template.shape[1:],
        dtype=template.dtype,
        device=device,
    )

    for start in range(0, rows, CHUNK_ROWS):
        stop = min(start + CHUNK_ROWS, rows)
        chosen = np.arange(start, stop)
        chunk = store.gather(stratum, chosen, [name])
        latents[start:stop] = chunk[name]
    return latents


def fits(
    store: LatentStore,
    names: Collection[str],
    device: torch.device,
) -> bool:
    """Whether a GPU has room for the latents. Never on a CPU: memory maps do as well there."""
    if device.type != "cuda":
        return False

    free, _ = torch.cuda.mem_get_info(device)
    return store.bytes_of(names) < SHARE * free
