"""Errors of quantities above 0 that are estimated place by place, each against its reference.

As Eigen et al. (NeurIPS 2014) compare d with its reference d*: over the places of one sample, then
the mean over samples.

    AbsRel = mean |d - d*| / d*
    RMSE   = sqrt(mean (d - d*)^2)
    delta  = share of places with max(d / d*, d* / d) < 1.25
"""

from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLD = 1.25


class RelativeErrors(NamedTuple):
    """Means over samples.

    Attributes:
        abs_rel: Absolute error relative to the reference; 0 is exact.
        rmse: Root mean square error, in the unit of the values.
        delta: Share of places within a factor of 1.25 of the reference; 1 is best.
    """

    abs_rel: float
    rmse: float
    delta: float


def relative_errors(made: Tensor, reference: Tensor, counts: Tensor) -> RelativeErrors:
    """The errors of n samples, in float64.

    Args:
        made: Estimates, 0 and above, with shape (n, *).
        reference: What is true, above 0 where it counts, with shape (n, *).
        counts: Whether a place counts, with shape (n, *); at least one of each sample does.
    """
    made = made.double().flatten(1)
    reference = reference.double().flatten(1)
    counts = counts.flatten(1)

    # What does not count is set to an estimate that is right.
    truth = torch.where(counts, reference, 1)
    made = torch.where(counts, made, truth)
    places = counts.sum(1)

    error = (made - truth).abs()
    abs_rel = (error / truth).sum(1) / places
    rmse = (error.square().sum(1) / places).sqrt()
    ratio = torch.maximum(made / truth, truth / made)
    is_near = counts & (ratio < THRESHOLD)
    delta = is_near.sum(1).double() / places
    return RelativeErrors(
        abs_rel=abs_rel.mean().item(),
        rmse=rmse.mean().item(),
        delta=delta.mean().item(),
    )
