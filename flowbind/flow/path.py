"""The straight path from t = 0 to t = 1.

`x_t = (1 - t) z + t x`, with velocity `x - z`; FlowBind (arXiv 2512.15420) has the shared latent at 0, a modality at 1. Shapes: n rows, latents (n, *).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PathSample(NamedTuple):
    """A point of the path, with shape (n, *), and its velocity there, with shape (n, *)."""

    x_t: Tensor
    velocity: Tensor


def sample_path(z: Tensor, x: Tensor, t: Tensor) -> PathSample:
    """The path from `z` to `x`, both with shape (n, *), at times `t`, with shape (n,)."""
    velocity = x - z
    return PathSample(x_t=z + _rows(t, x) * velocity, velocity=velocity)


def stop_gradient(z: Tensor, t: Tensor) -> Tensor:
    """`z`, with gradient only in the rows where `t = 0`: elsewhere only the drift learns."""
    return torch.where(_rows(t, z) == 0, z, z.detach())


def _rows(t: Tensor, like: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
