r"""The shared latent of a row is the mean of the kept estimates of its sample, and noise.

Take a row: a sample with modalities $S$, and the target $i \in S$ whose flow this row trains. Draw
$a$ and $d_j$ uniformly from $[0, 1)$. The estimates that may be used are

$$
C = \begin{cases}
\{ j \in S : j \ne i \} & \text{if } |S| > 1 \text{ and } a < q \\
S & \text{otherwise,}
\end{cases}
$$

those that are used are

$$
K = \{ j \in C : d_j \ge p \}, \quad \text{or } K = C \text{ if that leaves none,}
$$

and the shared latent of the row is

$$
\bar z = \frac{1}{|K|} \sum_{j \in K} h_j(x_j), \qquad
z = \operatorname{LN}(\bar z) + \sqrt{\frac{v}{|K|}}\, \varepsilon,
\qquad \varepsilon \sim \mathcal N(0, I).
$$
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.batch import Links

# Shapes: N rows, each of them a target i and an estimate h_j(x_j); L links, the pairs (i, j) of one
# sample; * the axes of a latent.


class Fused(NamedTuple):
    """Each row's kept estimates: their mean, with shape (N, *), and number |K|, with shape (N,)."""

    mean: Tensor
    count: Tensor  # type: ignore[assignment] # not a tuple's method of that name


def keep(
    links: Links,
    rows: int,
    drop: Tensor,
    leave: Tensor,
    head_dropout: float,
    leave_own_out: float,
) -> Tensor:
    """Which links are kept: K of every row.

    A row's own estimate is left out with probability `leave_own_out` whenever its sample has
    another; of the rest each is dropped with probability `head_dropout`; where that drops all, all
    the rest are kept.

    Args:
        links: Pairs (target row, estimate row).
        rows: Number N of rows.
        drop: Draws d in [0, 1), with shape (L,).
        leave: Draws a in [0, 1), with shape (N,).
        head_dropout: Probability p of dropping an estimate; 0.5 in the authors' code, there once
            per modality and step.
        leave_own_out: Probability q of leaving the own estimate out; flowbind's, not in the paper.

    Returns:
        A mask with shape (L,).
    """
    # C: a row that is alone in its sample (|S| = 1) has no other estimate, and keeps its own.
    is_own = links.target == links.estimate
    others = _sum((~is_own).to(drop.dtype), links, rows)
    leaves_own = (leave < leave_own_out) & (others > 0)
    is_candidate = ~(is_own & leaves_own[links.target])

    # K
    is_kept = is_candidate & (drop >= head_dropout)
    leaves_none = _sum(is_kept.to(drop.dtype), links, rows) == 0
    return is_kept | (is_candidate & leaves_none[links.target])


def fuse(
    estimates: Tensor,
    links: Links,
    kept: Tensor,
    rows: int,
) -> Fused:
    """Averages the kept estimates of each row.

    Args:
        estimates: Estimates h(x), with shape (E, *).
        links: Pairs (target row, estimate row).
        kept: Mask K, with shape (L,); at least one link of every row is kept.
        rows: Number N of rows.
    """
    is_kept = kept.to(estimates.dtype)
    count = _sum(is_kept, links, rows)
    share = is_kept / count[links.target]

    # An embedding's gradient is summed in one order, unlike that of plain indexing.
    linked = F.embedding(links.estimate, estimates.flatten(1)) * share[:, None]
    mean = _sum(linked, links, rows).reshape(rows, *estimates.shape[1:])
    return Fused(mean, count)


def normalize(z: Tensor) -> Tensor:
    """LN: LayerNorm without affine over all latent axes, so that each has mean 0 and variance 1."""
    return F.layer_norm(z, z.shape[1:])


def add_noise(
    mean: Tensor,
    count: Tensor,
    noise: Tensor,
    variance: float,
) -> Tensor:
    """`z = mean + sqrt(variance / count) noise`: each estimate has the same variance (FlowBind)."""
    return mean + _column((variance / count).sqrt(), mean) * noise


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One value a row, with shape (n, 1, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _sum(values: Tensor, links: Links, rows: int) -> Tensor:
    """The sum of each target row's links, (L, *) -> (N, *), in one order.

    `index_add` takes any order on a GPU.
    """
    ones = torch.ones_like(links.target)
    lengths = ones.new_zeros(rows).index_add(0, links.target, ones)
    return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
