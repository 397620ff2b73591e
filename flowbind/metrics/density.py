"""Density and coverage: how much of what was generated lies among real samples, and how many of these it reaches."""

import torch
from torch import Tensor

ROWS = 1024  # real samples at a time: 30,000 against 30,000 take 250 MB


def density_and_coverage(made: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Density and coverage (Naeem et al., ICML 2020, arXiv 2002.09797, equations 3 and 4).

    Around each real sample lies the ball that reaches to its k-th nearest other one, without its edge. Density is the
    mean number of balls that a generation lies in, divided by k: 0 at least, and 1 where both sets are drawn alike; it
    exceeds 1 where generations crowd in dense places. Coverage is the share of balls with a generation, 0 to 1.
    Unlike precision and recall neither hangs on the balls of generations, which outliers make large.

    Args:
        made: features of generations, with shape (m, F).
        real: features of real samples, with shape (n, F).
        k: neighbour that a ball reaches to.

    Raises:
        ValueError: no more than k real samples.
    """
    if len(real) <= k:
        raise ValueError(
            f"density and coverage by {k} neighbours need more than {k} real samples, not {len(real)}"
        )
    made, real = made.double(), real.double()
    inside = reached = 0
    for block in real.split(ROWS):
        radius = (
            torch.cdist(block, real).kthvalue(k + 1).values
        )  # the nearest of all is the sample itself
        within = torch.cdist(block, made) < radius[:, None]
        inside += within.sum().item()
        reached += within.any(1).sum().item()
    return inside / (k * len(made)), reached / len(real)
