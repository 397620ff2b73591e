"""The kernel distance of two sets of samples: maximum mean discrepancy, without bias."""

import torch
from torch import Tensor

ROWS = 2048  # samples at a time
MEDIAN_ROWS = 5000  # samples, evenly spaced, whose distances the median is taken of


def kernel_distance(generated: Tensor, real: Tensor) -> float:
    """The squared maximum mean discrepancy with a Gaussian kernel.

    Equation 3 of Gretton et al., JMLR 2012:

        E k(x, x') + E k(y, y') - 2 E k(x, y),  k(x, y) = exp(-|x - y|^2 / (2 s^2))

    over different samples x, x' of one set and y, y' of the other, so a fair estimate at any
    number; it may come out a little below 0. The scale s is the median distance between real
    samples, so that results of several models compare.

    Args:
        generated: Features of generations, with shape (m, F), m at least 2.
        real: Features of real samples, with shape (n, F), n at least 2.

    Raises:
        ValueError: most real samples are one and the same.
    """
    generated = generated.double()
    real = real.double()

    step = -(-len(real) // MEDIAN_ROWS)  # rounded up
    width = torch.pdist(real[::step]).median()
    if not width > 0:
        raise ValueError(
            "most real samples are the same, so there is no scale to measure a kernel distance on"
        )

    within_generated = _mean_kernel(
        generated,
        generated,
        width,
        itself=len(generated),
    )
    within_real = _mean_kernel(real, real, width, itself=len(real))
    between = _mean_kernel(generated, real, width, itself=0)
    return within_generated + within_real - 2 * between


def _mean_kernel(
    a: Tensor,
    b: Tensor,
    width: Tensor,
    itself: int,
) -> float:
    """The mean of the kernel over all pairs but those of `itself` samples with themselves.

    Of those the kernel is 1.
    """
    total = 0.0
    for block in a.split(ROWS):
        distance = torch.cdist(block, b)
        kernel = distance.div(width).square().div(-2).exp()
        total += kernel.sum().item()

    pairs = len(a) * len(b) - itself
    return (total - itself) / pairs
