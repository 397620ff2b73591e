"""Averaging fusion: the shared latent of a row is the mean of the kept estimates of its sample.

The same mean serves training (the heads' estimates, thinned by dropout and leave-own-out) and generation (the latents
that the sources' flows end in). Shapes: N rows, L links, latents (N, *).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.batch import Links


class Fused(NamedTuple):
    """The mean of each row's kept estimates, with shape (N, *), and their number, with shape (N,)."""

    mean: Tensor
    count: Tensor


def keep(
    links: Links, rows: int, drop: Tensor, leave: Tensor, head_dropout: float, leave_own_out: float
) -> Tensor:
    """Which links are kept.

    A row's own estimate is left out with probability `leave_own_out` whenever its sample has another; of the rest each
    is dropped with probability `head_dropout`; where that drops all, all the rest are kept.

    Args:
        links: pairs (target row, estimate row).
        rows: N.
        drop: uniform draws in [0, 1), with shape (L,).
        leave: uniform draws in [0, 1), with shape (N,).
        head_dropout: probability of dropping an estimate (0.5 in the authors' code, there once per modality and step).
        leave_own_out: probability of leaving the own estimate out (flowbind's; not in the paper).

    Returns:
        A mask with shape (L,).
    """
    own = links.target == links.estimate
    lonely = _sum((~own).to(drop.dtype), links, rows) == 0
    candidate = ~(own & ((leave < leave_own_out) & ~lonely)[links.target])
    kept = candidate & (drop >= head_dropout)
    none = _sum(kept.to(drop.dtype), links, rows) == 0
    return kept | (candidate & none[links.target])


def fuse(estimates: Tensor, links: Links, kept: Tensor, rows: int) -> Fused:
    """Averages the kept estimates of each row.

    Args:
        estimates: with shape (E, *).
        links: pairs (target row, estimate row).
        kept: mask with shape (L,); at least one link of every row is kept.
        rows: N.
    """
    count = _sum(kept.to(estimates.dtype), links, rows)
    share = kept.to(estimates.dtype) / count[links.target]
    # Its gradient is summed in one order, unlike that of plain indexing.
    linked = F.embedding(links.estimate, estimates.flatten(1)) * share[:, None]
    return Fused(_sum(linked, links, rows).reshape(rows, *estimates.shape[1:]), count)


def normalize(z: Tensor) -> Tensor:
    """LayerNorm without affine over all latent axes: every latent gets mean 0 and variance 1."""
    return F.layer_norm(z, z.shape[1:])


def add_noise(mean: Tensor, count: Tensor, noise: Tensor, variance: float) -> Tensor:
    """`z = mean + sqrt(variance / count) noise`: each kept estimate has the same fixed variance (FlowBind)."""
    return mean + (variance / count).sqrt().reshape(-1, *[1] * (mean.ndim - 1)) * noise


def _sum(values: Tensor, links: Links, rows: int) -> Tensor:
    """The sum of each row's links, in their order: `index_add` takes any order on a GPU."""
    ones = torch.ones_like(links.target)
    lengths = ones.new_zeros(rows).index_add(0, links.target, ones)
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
