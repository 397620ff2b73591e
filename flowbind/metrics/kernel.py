"""The kernel distance of two sets of samples: maximum mean discrepancy, unbiased however few they are."""

import torch
from torch import Tensor

ROWS = 2048  # samples at a time
MEDIAN_ROWS = 5000  # samples, evenly spaced, whose distances the median is taken of


def kernel_distance(made: Tensor, real: Tensor) -> float:
    """The squared maximum mean discrepancy with a Gaussian kernel (Gretton et al., JMLR 2012, equation 3).

    `E k(x, x') + E k(y, y') - 2 E k(x, y)` over different samples x, x' of one set and y, y' of the other, so a fair
    estimate at any number; it may come out a little below 0. The kernel is `exp(-|x - y|^2 / (2 s^2))` with s the median
    distance between real samples, so that figures of several models compare.

    Args:
        made: with shape (m, F), m at least 2.
        real: with shape (n, F), n at least 2.

    Raises:
        ValueError: most real samples are one and the same.
    """
    made, real = made.double(), real.double()
    step = -(-len(real) // MEDIAN_ROWS)
    width = torch.pdist(real[::step]).median()
    if not width > 0:
        raise ValueError(
            "most real samples are the same, so there is no scale to measure a kernel distance on"
        )
    within = [_mean_kernel(x, x, width, len(x)) for x in (made, real)]
    return sum(within) - 2 * _mean_kernel(made, real, width, 0)


def _mean_kernel(a: Tensor, b: Tensor, width: Tensor, itself: int) -> float:
    """The mean of the kernel over all pairs but those of `itself` samples with themselves, where it is 1."""
    total = 0.0
    for block in a.split(ROWS):
        total += torch.cdist(block, b).div(width).square().div(-2).exp().sum().item()
    return (total - itself) / (len(a) * len(b) - itself)
