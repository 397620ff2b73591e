"""Density and coverage: how close generations keep to real samples, and how many they reach."""

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
        # The nearest of all is the sample itself.
        radius = torch.cdist(block, real).kthvalue(k + 1).values
        within = torch.cdist(block, generated) < radius[:, None]
        inside += within.sum().item()
        reached += within.any(1).sum().item()

    density = inside / (k * len(generated))
    coverage = reached / len(real)
    return density, coverage
