"""A training batch: ragged, not masked.

For each modality its rows, and the sample that each row belongs to; a modality that no sample has
keeps zero rows. Rows of all modalities, in the order of the mapping, are numbered 0 to N - 1. A
link says that row `estimate` may give row `target` an estimate of the shared latent, because both
belong to the same sample. (No class here is frozen, because Lightning's precisions convert the
tensors of a batch in place.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from flowbind import draws


@dataclass
class Links:
    """Pairs of rows of one sample, own row included, with shape (L,) each, sorted by target."""

    target: Tensor
    estimate: Tensor


@dataclass
class Place:
    """Where one rank's rows and links stand among those of the global batch.

    What is drawn for a row depends on its place alone, so that it is the same however many ranks
    share a batch.

    Attributes:
        rows: Number of each row in the global batch, with shape (N,).
        links: Number of each link in the global batch, with shape (L,).
        mean_rows: Per modality, rows of the global batch divided by the number of ranks. A sum of
            errors divided by it is, in the mean over the ranks, the mean over the global batch,
            though some ranks have a row more.
    """

    rows: Tensor
    links: Tensor
    mean_rows: dict[str, float]


@dataclass
class Batch:
    """Latents of B samples.

    Attributes:
        latents: Per modality i, latents with shape (n_i, *shape_i).
        samples: Per modality i, the sample of each row, with shape (n_i,), in [0, B).
        links: Pairs of rows of the same sample.
        step: Number of the batch in its sequence; with a seed it decides what is drawn for it.
        place: Place of these rows in the global batch; None where these are all of it.
    """

    latents: dict[str, Tensor]
    samples: dict[str, Tensor]
    links: Links
    step: int = 0
    place: Place | None = None

    @classmethod
    def of(
        cls,
        latents: Mapping[str, Tensor],
        samples: Mapping[str, Tensor],
    ) -> "Batch":
        """Makes a batch, and finds its links."""
        sample_of_row = torch.cat([samples[name] for name in latents])
        links = find_links(sample_of_row)
        return cls(dict(latents), dict(samples), links)

    def map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `move` applied to every tensor."""
        place = self.place
        if place:
            place = replace(
                place,
                rows=move(place.rows),
                links=move(place.links),
            )

        latents = {name: move(x) for name, x in self.latents.items()}
        samples = {name: move(s) for name, s in self.samples.items()}
        links = Links(move(self.links.target), move(self.links.estimate))
        return replace(
            self,
            latents=latents,
            samples=samples,
            links=links,
            place=place,
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        """The batch on a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory."""
        return self.map(Tensor.pin_memory)

    @property
    def row_numbers(self) -> Tensor:
        """The number of each row in the global batch, with shape (N,)."""
        if self.place:
            return self.place.rows
        device = self.links.target.device
        return torch.arange(sum(self.rows), device=device)

    @property
    def link_numbers(self) -> Tensor:
        """The number of each link in the global batch, with shape (L,)."""
        if self.place:
            return self.place.links
        target = self.links.target
        return torch.arange(len(target), device=target.device)

    def streams(self, key: int) -> dict[str, Tensor]:
        """A random stream for each row of each modality, with shape (n_i,).

        It depends on the key and on the row's place (`flowbind.draws`).
        """
        streams = draws.streams(key, self.row_numbers)
        parts = streams.split(self.rows)
        return dict(zip(self.latents, parts, strict=True))

    @property
    def rows(self) -> list[int]:
        """Number of rows per modality."""
        return [len(x) for x in self.latents.values()]

    @property
    def mean_rows(self) -> dict[str, float]:
        """Per modality, the number of rows of the global batch divided by the number of ranks."""
        if self.place:
            return self.place.mean_rows
        return {name: float(len(x)) for name, x in self.latents.items()}


class Part(NamedTuple):
    """One rank's part of a global batch, all but its latents.

    Attributes:
        samples: Per modality, the sample of each row, numbered in the global batch.
        links: Links between this rank's rows.
        place: Where these rows and links are in the global batch.
    """

    samples: dict[str, Tensor]
    links: Links
    place: Place


def part_of(
    samples: Mapping[str, Tensor],
    links: Links,
    rank: int,
    world: int,
) -> Part:
    """A rank's part of a global batch: every world-th sample, with its rows and links.

    Args:
        samples: Per modality, the sample of each row of the global batch, with shape (n_i,).
        links: Links of the global batch.
        rank: Rank whose part it is.
        world: Number of ranks.
    """
    sample_of_row = torch.cat(list(samples.values()))
    row_is_mine = sample_of_row % world == rank
    link_is_mine = row_is_mine[links.target]
    local_row = row_is_mine.cumsum(0) - 1  # number of a global row among this rank's

    own_samples = {}
    mean_rows = {}
    for name, numbers in samples.items():
        own_samples[name] = numbers[numbers % world == rank]
        mean_rows[name] = len(numbers) / world

    own_links = Links(
        target=local_row[links.target[link_is_mine]],
        estimate=local_row[links.estimate[link_is_mine]],
    )
    place = Place(
        rows=row_is_mine.nonzero().flatten(),
        links=link_is_mine.nonzero().flatten(),
        mean_rows=mean_rows,
    )
    return Part(own_samples, own_links, place)


def find_links(samples: Tensor) -> Links:
    """All pairs of rows of the same sample, from the sample of each row, with shape (N,).

    Costs O(N log N) and as many entries as there are links: a sample with k modalities has k * k.
    """
    # Rows sorted by sample: those of one sample, a group, stand together from its start on.
    row_in_order = torch.argsort(samples, stable=True)
    _, group, sizes = torch.unique(samples, return_inverse=True, return_counts=True)
    starts = sizes.cumsum(0) - sizes

    # Each row is a target as often as its group has rows.
    links_of_row = sizes[group]
    rows = torch.arange(len(samples), device=samples.device)
    target = torch.repeat_interleave(rows, links_of_row)

    # The number of each link among those of its target is the estimate's number in the group.
    first_link = links_of_row.cumsum(0) - links_of_row
    links = torch.arange(len(target), device=samples.device)
    number_in_group = links - torch.repeat_interleave(first_link, links_of_row)
    first_in_order = starts[group[target]]
    estimate = row_in_order[first_in_order + number_in_group]
    return Links(target, estimate)
