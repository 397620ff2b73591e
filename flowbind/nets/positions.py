"""Features of positions, from which learnt ones begin."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PERIOD = (
    10_000.0  # of the sinusoids, in positions; Vaswani et al., arXiv 1706.03762
)


def sinusoids(sides: Sequence[int], width: int) -> Tensor:
    """Sines and cosines of every position, with shape (L, W); L is the product of the sides.

    Each axis has the same number of features; what is left over is 0.

    Args:
        sides: Positions along each axis: one side of a sequence, two of a grid, whose rows come
            first.
        width: Number W of features.
    """
    frequencies = width // (2 * len(sides))
    exponents = torch.arange(frequencies) / max(frequencies, 1)
    omega = MAX_PERIOD**-exponents

    axes = [torch.arange(side, dtype=torch.float32) for side in sides]
    features = []
    for coordinates in torch.meshgrid(*axes, indexing="ij"):
        angles = coordinates.reshape(-1, 1) * omega
        features += [angles.sin(), angles.cos()]

    stacked = torch.cat(features, dim=1)
    return F.pad(stacked, (0, width - stacked.shape[1]))
