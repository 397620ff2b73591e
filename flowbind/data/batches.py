"""Batches of cached latents, of constant composition: store -> rows of a step -> batch."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from flowbind.batch import Batch, Links, Place, find_links
from flowbind.data.mixture import Mixture, step_numbers
from flowbind.data.resident import Resident, RowNumbers
from flowbind.data.shard import LINE
from flowbind.data.store import LatentStore


class Steps(IterableDataset):
    """The endless sequence of training batches, from one step on.

    Several loading processes take turns, so that the sequence stays the same. With a period, the first so many come
    again and again.
    """

    def __init__(
        self,
        store: LatentStore,
        names: Sequence[str],
        mixture: Mixture,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
        period: float = 0,
        absent: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.store = store
        self.mixture = mixture
        self.first = first
        self.rank = rank
        self.world = world
        self.period = period
        self.frame = Frame(store, names, mixture.shares, rank, world, absent)

    def at(self, step: int) -> Batch:
        """The batch of one step."""
        return self.frame.fill(self.store, self.mixture.batch(step, self.rank, self.world), step)

    def lines(self, step: int) -> dict[str, Tensor]:
        """Per modality, the line in the manifest (from 0, samples only) of each row of a step's batch."""
        rows = self.mixture.batch(step, self.rank, self.world)
        lines = [self.store.gather(i, r, [LINE])[LINE] for i, r in enumerate(rows)]
        return {
            name: torch.cat([lines[i] for i in parts] or [lines[0][:0]])
            for name, parts in self.frame.parts.items()
        }

    def numbers(self, step: int) -> RowNumbers:
        """The rows of one step's batch, not read."""
        rows = self.mixture.batch(step, self.rank, self.world)
        return RowNumbers(step, torch.from_numpy(np.concatenate(rows)))

    def __iter__(self) -> Iterator[Batch]:
        return map(self.at, self.turns())

    def turns(self) -> Iterator[int]:
        """The numbers of the steps whose turn it is in this loading process."""
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        return step_numbers(self.first + start, stride, self.period)


class Numbers(IterableDataset):
    """The same sequence as row numbers, for latents that are on the device."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[RowNumbers]:
        return map(self.steps.numbers, self.steps.turns())


class Rows(IterableDataset):
    """Every row of some strata once, stratum after stratum, for validation; a rank has every world-th row of each batch."""

    def __init__(
        self,
        store: LatentStore,
        names: Sequence[str],
        size: int,
        rank: int = 0,
        world: int = 1,
        strata: Sequence[int] | None = None,
        absent: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.store = store
        self.names = names
        self.size = size
        self.rank = rank
        self.world = world
        self.absent = absent
        self.strata = range(len(store.strata)) if strata is None else strata

    def __iter__(self) -> Iterator[Batch]:
        step = itertools.count()
        for number in self.strata:
            stratum = self.store.strata[number]
            for start in range(0, stratum.rows, self.size):
                stop = min(start + self.size, stratum.rows)
                rows = [np.arange(0)] * len(self.store.strata)
                rows[number] = np.arange(start + self.rank, stop, self.world)
                shares = [stop - start if i == number else 0 for i in range(len(rows))]
                frame = Frame(self.store, self.names, shares, self.rank, self.world, self.absent)
                yield frame.fill(self.store, rows, next(step))


class Frame:
    """What batches of equal composition share: the sample of each row, the links, and the place in the global batch.

    Args:
        store: where the latents are.
        names: of the modalities.
        shares: rows of each stratum in the global batch.
        rank: whose batches these are; it has every world-th sample.
        world: number of ranks.
        absent: of modalities that the store does not have, no latents, with shape (0, *shape).
    """

    def __init__(
        self,
        store: LatentStore,
        names: Sequence[str],
        shares: Sequence[int],
        rank: int = 0,
        world: int = 1,
        absent: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        self.parts = {
            name: [i for i, stratum in enumerate(store.strata) if name in stratum.modalities]
            for name in names
        }
        starts = np.cumsum([0, *shares])
        held = {
            name: torch.cat(
                [torch.arange(starts[i], starts[i + 1]) for i in parts] or [torch.arange(0)]
            )
            for name, parts in self.parts.items()
        }
        samples, links = torch.cat(list(held.values())), find_links(torch.cat(list(held.values())))
        mine = torch.arange(starts[-1]) % world == rank
        row, link = mine[samples], mine[samples][links.target]
        number = row.cumsum(0) - 1  # among this rank's rows
        self.samples = {name: ids[mine[ids]] for name, ids in held.items()}
        self.links = Links(number[links.target[link]], number[links.estimate[link]])
        self.place = None if world == 1 else Place(
            row.nonzero().flatten(), link.nonzero().flatten(), {name: len(ids) / world for name, ids in held.items()}
        )  # fmt: skip
        self.held = [
            [name for name in stratum.modalities if name in self.parts] for stratum in store.strata
        ]
        self.sizes = [
            int(mine[start:stop].sum()) for start, stop in itertools.pairwise(starts.tolist())
        ]
        self.none = {
            name: store.fields[name].empty if name in store.fields else absent[name]
            for name, parts in self.parts.items()
            if not parts
        }

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        frame = copy.copy(self)
        moved = Batch(self.none, self.samples, self.links, place=self.place).to(device)
        frame.none = moved.latents
        frame.samples = moved.samples
        frame.links = moved.links
        frame.place = moved.place
        return frame

    def fill(
        self, source: LatentStore | Resident, rows: Sequence[np.ndarray | Tensor], step: int = 0
    ) -> Batch:
        """The batch of these rows of each stratum."""
        found = [source.gather(i, r, self.held[i]) for i, r in enumerate(rows)]
        latents = {
            name: torch.cat([found[i][name] for i in parts]) if parts else self.none[name]
            for name, parts in self.parts.items()
        }
        return Batch(latents, self.samples, self.links, step, self.place)
