"""Batches of cached latents, of constant composition: store -> rows of a step -> batch."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from flowbind.batch import Batch, find_links, part_of
from flowbind.data.mixture import Mixture, step_numbers
from flowbind.data.resident import RowNumbers
from flowbind.data.shard import LINE
from flowbind.data.store import LatentStore

Indices = TypeVar("Indices", contravariant=True)


class Source(Protocol[Indices]):
    """Latents whose rows are gathered by number: a store, by arrays, or a device, by tensors."""

    def gather(
        self,
        stratum: int,
        rows: Indices,
        names: Sequence[str],
    ) -> dict[str, Tensor]: ...


class Steps(IterableDataset):
    """The endless sequence of training batches, from one step on.

    Several loading processes take turns, so that the sequence stays the same. With a period, the
    first so many come again and again.

    Args:
        store: Store of the latents.
        names: Names of the modalities.
        mixture: Sampler over the store's strata.
        first: Step to begin with.
        rank: Process whose part of each batch this is: every world-th sample.
        world: Number of processes.
        period: Number of steps that are repeated; 0 for none.
        absent: Empty latents, with shape (0, *shape), of modalities that the store does not have.
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
        rows = self.mixture.batch(step, self.rank, self.world)
        return self.frame.fill(self.store, rows, step)

    def lines(self, step: int) -> dict[str, Tensor]:
        """Per modality, the manifest's line (from 0, samples only) of each row of a batch."""
        rows_of_stratum = self.mixture.batch(step, self.rank, self.world)
        lines_of_stratum = []
        for stratum, rows in enumerate(rows_of_stratum):
            gathered = self.store.gather(stratum, rows, [LINE])
            lines_of_stratum.append(gathered[LINE])

        none = lines_of_stratum[0][:0]
        lines = {}
        for name, strata in self.frame.strata_of.items():
            parts = [lines_of_stratum[i] for i in strata]
            lines[name] = torch.cat([none, *parts])
        return lines

    def numbers(self, step: int) -> RowNumbers:
        """The rows of one step's batch, not read."""
        rows_of_stratum = self.mixture.batch(step, self.rank, self.world)
        rows = np.concatenate(rows_of_stratum)
        return RowNumbers(step, torch.from_numpy(rows))

    def __iter__(self) -> Iterator[Batch]:
        return map(self.at, self.turns())

    def turns(self) -> Iterator[int]:
        """The numbers of the steps whose turn it is in this loading process."""
        worker = get_worker_info()
        first = self.first
        stride = 1
        if worker:
            first += worker.id
            stride = worker.num_workers
        return step_numbers(first, stride, self.period)


class Numbers(IterableDataset):
    """The same sequence as row numbers, for latents that are on the device."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __iter__(self) -> Iterator[RowNumbers]:
        return map(self.steps.numbers, self.steps.turns())


class Rows(IterableDataset):
    """Every row of some strata once, stratum after stratum, for validation.

    A rank has every world-th row of each batch.
    """

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
        if strata is None:
            strata = range(len(store.strata))
        self.strata = strata

    def __iter__(self) -> Iterator[Batch]:
        step = itertools.count()
        count = len(self.store.strata)
        for number in self.strata:
            stratum = self.store.strata[number]
            for start in range(0, stratum.rows, self.size):
                stop = min(start + self.size, stratum.rows)

                # A batch of this stratum alone.
                shares = [0] * count
                shares[number] = stop - start
                rows = [np.arange(0)] * count
                rows[number] = np.arange(start + self.rank, stop, self.world)

                frame = Frame(
                    self.store,
                    self.names,
                    shares,
                    rank=self.rank,
                    world=self.world,
                    absent=self.absent,
                )
                yield frame.fill(self.store, rows, next(step))


class Frame:
    """What batches of equal composition share.

    That is the sample of each row, the links, and the place in the global batch.

    Args:
        store: Store of the latents.
        names: Names of the modalities.
        shares: Rows of each stratum in the global batch.
        rank: Process whose batches these are; it has every world-th sample.
        world: Number of processes.
        absent: Empty latents, with shape (0, *shape), of modalities that the store does not have.

    Attributes:
        strata_of: Per modality, the strata whose samples have it.
        names_in: Per stratum, the modalities of its samples, of those asked for.
        sizes: Per stratum, its rows in a batch of this rank.
        samples: Per modality, the sample of each row, numbered in the global batch.
        links: Links between this rank's rows.
        place: Where this rank's rows are in the global batch; None if they are all of it.
        empty: Empty latents, with shape (0, *shape), of modalities that no stratum has.
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
        self.strata_of: dict[str, list[int]] = {}
        for name in names:
            self.strata_of[name] = []
        self.names_in: list[list[str]] = []
        for number, stratum in enumerate(store.strata):
            known = []
            for name in stratum.modalities:
                if name in self.strata_of:
                    known.append(name)
                    self.strata_of[name].append(number)
            self.names_in.append(known)

        # The global batch: for each modality, the samples that have it, stratum after stratum.
        starts = np.cumsum([0, *shares])
        samples = {}
        for name, strata in self.strata_of.items():
            samples[name] = ranges_of(starts, strata)
        sample_of_row = torch.cat(list(samples.values()))
        links = find_links(sample_of_row)

        part = part_of(samples, links, rank, world)
        self.samples = part.samples
        self.links = part.links
        self.place = None
        if world > 1:
            self.place = part.place

        numbers = torch.arange(starts[-1])
        is_mine = numbers % world == rank
        self.sizes: list[int] = []
        for start, stop in itertools.pairwise(starts.tolist()):
            own_rows = is_mine[start:stop].sum()
            self.sizes.append(int(own_rows))

        self.empty = {}
        for name, strata in self.strata_of.items():
            if not strata:
                field = store.fields.get(name)
                self.empty[name] = field.empty if field else absent[name]

    def to(self, device: torch.device) -> "Frame":
        """The same on a device."""
        batch = Batch(self.empty, self.samples, self.links, place=self.place)
        moved = batch.to(device)

        frame = copy.copy(self)
        frame.empty = moved.latents
        frame.samples = moved.samples
        frame.links = moved.links
        frame.place = moved.place
        return frame

    def fill(
        self,
        source: Source[Indices],
        rows: Sequence[Indices],
        step: int = 0,
    ) -> Batch:
        """The batch of these rows of each stratum."""
        gathered = []
        for stratum, numbers in enumerate(rows):
            names = self.names_in[stratum]
            gathered.append(source.gather(stratum, numbers, names))

        latents = {}
        for name, strata in self.strata_of.items():
            parts = [gathered[i][name] for i in strata]
            latents[name] = torch.cat(parts) if parts else self.empty[name]
        return Batch(
            latents=latents,
            samples=self.samples,
            links=self.links,
            step=step,
            place=self.place,
        )


def ranges_of(starts: np.ndarray, strata: Sequence[int]) -> Tensor:
    """The numbers from `starts[i]` up to `starts[i + 1]` of each stratum i, one after the other."""
    ranges = [torch.arange(0)]
    for i in strata:
        ranges.append(torch.arange(starts[i], starts[i + 1]))
    return torch.cat(ranges)
