"""How close generations keep to real samples, and how many they reach, by nearest neighbours."""

import torch
from torch import Tensor

ROWS = 1024  # real samples at a time: 30,000 against 30,000 take 250 MB


def density_and_coverage(
    generated: Tensor,
    real: Tensor,
    k: int,
) -> tuple[float, float]:
    """Density and coverage (Naeem et al., ICML 2020, arXiv 2002.09797, equations 3 and 4).

    Around each real sample lies the ball that reaches to its k-th nearest other one, without its
    edge. Density is the mean number of balls that a generation lies in, divided by k: 0 at least,
    and 1 where both sets are drawn alike; it exceeds 1 where generations crowd in dense places.
    Coverage is the share of balls with a generation, 0 to 1. Unlike precision and recall neither
    hangs on the balls of generations, which outliers make large.

    Args:
        generated: Features of generations, with shape (m, F).
        real: Features of real samples, with shape (n, F), n above k.
        k: Neighbour that a ball reaches to.

    Returns:
        Density, at least 0, and coverage, in [0, 1].

    Raises:
        ValueError: no more than k real samples.
    """
    if len(real) <= k:
        raise ValueError(
            f"density and coverage by {k} neighbours need more than {k} real samples, "
            f"not {len(real)}"
        )
    generated = generated.double()
    real = real.double()

    inside = 0
    reached = 0
    for block in real.split(ROWS):
        radius = _radii(block, real, k)
        within = torch.cdist(block, generated) < radius
        inside += int(within.sum())
        reached += int(within.any(1).sum())

    density = inside / (k * len(generated))
    coverage = reached / len(real)
    return density, coverage


def precision_and_recall(
    generated: Tensor,
    real: Tensor,
    k: int,
) -> tuple[float, float]:
    """Precision and recall (Kynkaanniemi et al., NeurIPS 2019, arXiv 1904.06991, equations 1, 2).

    Precision is the share of generations that lie in the ball of some real sample, which reaches to
    its k-th nearest other one, edge included; recall is the same with the roles exchanged. Means in
    the place of samples have high precision and low recall.

    Args:
        generated: Features of generations, with shape (m, F), m above k.
        real: Features of real samples, with shape (n, F), n above k.
        k: Neighbour that a ball reaches to; 3 in the paper.

    Returns:
        Precision and recall, in [0, 1].

    Raises:
        ValueError: no more than k samples in one of the sets.
    """
    fewest = min(len(generated), len(real))
    if fewest <= k:
        raise ValueError(
            f"precision and recall by {k} neighbours need more than {k} samples of each kind, "
            f"not {fewest}"
        )
    generated = generated.double()
    real = real.double()
    return _share_within(generated, real, k), _share_within(real, generated, k)


def _share_within(x: Tensor, balls: Tensor, k: int) -> float:
    """The share of rows of `x` that lie in a ball around some row of `balls`."""
    within = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for block in balls.split(ROWS):
        is_near = torch.cdist(block, x) <= _radii(block, balls, k)
        within |= is_near.any(0)
    return within.double().mean().item()


def _radii(block: Tensor, samples: Tensor, k: int) -> Tensor:
    """How far the balls around a block of the samples reach, with shape (rows, 1)."""
    distances = torch.cdist(block, samples)
    # The nearest of all is the sample itself.
    nearest = distances.kthvalue(k + 1)
    return nearest.values[:, None]
