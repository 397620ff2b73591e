"""A training batch: ragged, not masked.

For each modality its rows, and the sample that each row belongs to; a modality that no sample has keeps zero rows.
Rows of all modalities, in the order of the mapping, are numbered 0 to N - 1. A link says that row `target` may be told
about the shared latent by row `estimate`, because both belong to the same sample. (No class here is frozen, because
Lightning's precisions convert the tensors of a batch in place.)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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

    What is drawn for a row depends on its place alone, so that it is the same however many ranks share a batch.

    Attributes:
        rows: number of each row in the global batch, with shape (N,).
        links: number of each link in the global batch, with shape (L,).
        mean_rows: per modality, rows of the global batch divided by the number of ranks. A sum of errors divided by it
            is, in the mean over the ranks, the mean over the global batch, though some ranks have a row more.
    """

    rows: Tensor
    links: Tensor
    mean_rows: dict[str, float]


@dataclass
class Batch:
    """Latents of B samples.

    Attributes:
        latents: per modality i, with shape (n_i, *shape_i).
        samples: per modality i, the sample of each row, with shape (n_i,), in [0, B).
        links: pairs of rows of the same sample.
        step: number of the batch in its sequence; with a seed it decides what is drawn for it.
        place: of these rows in the global batch; None where these are all of it.
    """

    latents: dict[str, Tensor]
    samples: dict[str, Tensor]
    links: Links
    step: int = 0
    place: Place | None = None

    @classmethod
    def of(cls, latents: Mapping[str, Tensor], samples: Mapping[str, Tensor]) -> "Batch":
        """Makes a batch, and finds its links."""
        return cls(
            dict(latents), dict(samples), find_links(torch.cat([samples[name] for name in latents]))
        )

    def map(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `move` applied to every tensor."""
        return replace(
            self,
            latents={name: move(x) for name, x in self.latents.items()},
            samples={name: move(s) for name, s in self.samples.items()},
            links=Links(move(self.links.target), move(self.links.estimate)),
            place=self.place
            and replace(self.place, rows=move(self.place.rows), links=move(self.place.links)),
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
        device = self.links.target.device
        return self.place.rows if self.place else torch.arange(sum(self.rows), device=device)

    @property
    def link_numbers(self) -> Tensor:
        """The number of each link in the global batch, with shape (L,)."""
        device = self.links.target.device
        return (
            self.place.links if self.place else torch.arange(len(self.links.target), device=device)
        )

    def streams(self, key: int) -> dict[str, Tensor]:
        """A random stream for each row of each modality, with shape (n_i,): of the key and the row's place (`flowbind.draws`)."""
        streams = draws.streams(key, self.row_numbers).split(self.rows)
        return dict(zip(self.latents, streams, strict=True))

    @property
    def rows(self) -> list[int]:
        """Number of rows per modality."""
        return [len(x) for x in self.latents.values()]

    @property
    def mean_rows(self) -> dict[str, float]:
        """Per modality, the number of rows of the global batch divided by the number of ranks."""
        return (
            self.place.mean_rows
            if self.place
            else {name: float(len(x)) for name, x in self.latents.items()}
        )


def find_links(samples: Tensor) -> Links:
    """All pairs of rows of the same sample, from the sample of each row, with shape (N,).

    Costs O(N log N) and as many entries as there are links: a sample with k modalities has k * k.
    """
    order = torch.argsort(samples, stable=True)
    _, group, sizes = torch.unique(samples, return_inverse=True, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    width = sizes[group]  # links of each target
    target = torch.repeat_interleave(torch.arange(len(samples), device=samples.device), width)
    within = torch.arange(len(target), device=samples.device) - torch.repeat_interleave(
        width.cumsum(0) - width, width
    )
    return Links(target, order[starts[group[target]] + within])
