r"""The path from the shared latent to the modality is straight:

$$
x_t = (1 - t)\, z + t\, x_i, \qquad \frac{\mathrm d x_t}{\mathrm d t} = x_i - z .
$$

The drift net learns the velocity by least squares, so at its best

$$
v_i(x, 1) = x - \mathbb E[z \mid x_i = x], \qquad v_i(z, 0) = \mathbb E[x_i \mid z] - z .
$$

At the two ends a single Euler step of length 1 is therefore a regression: from 1 to 0 it gives the
expected shared latent, from 0 to 1 the expected modality.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Shapes: n rows, * the axes of a latent.


class PathSample(NamedTuple):
    """A point of the path, with shape (n, *), and its velocity there, with shape (n, *)."""

    x_t: Tensor
    velocity: Tensor


def sample_path(z: Tensor, x: Tensor, t: Tensor) -> PathSample:
    """The path from `z` to `x`, both with shape (n, *), at times `t`, with shape (n,)."""
    velocity = x - z
    x_t = z + _column(t, x) * velocity
    return PathSample(x_t, velocity)


def sample_sine_cosine_path(z: Tensor, x: Tensor, t: Tensor) -> PathSample:
    """A path of constant variance from `z` to `x`, where both have the same.

    It is `x_t = cos(pi t / 2) z + sin(pi t / 2) x` (CrossFlow, arXiv 2412.15213, calls it the
    sine-cosine path).

    Args:
        z: Starts, with shape (n, *).
        x: Ends, with shape (n, *).
        t: Times in [0, 1], with shape (n,).
    """
    angle = _column(t, x) * (math.pi / 2)
    x_t = angle.cos() * z + angle.sin() * x
    velocity = (angle.cos() * x - angle.sin() * z) * (math.pi / 2)
    return PathSample(x_t, velocity)


def stop_gradient(z: Tensor, t: Tensor) -> Tensor:
    """`z`, with gradient only in the rows where `t = 0`: elsewhere only the drift learns."""
    is_zero = _column(t, z) == 0
    return torch.where(is_zero, z, z.detach())


def _column(t: Tensor, like: Tensor) -> Tensor:
    """One time a row, with shape (n, 1, ...), of the latents' dtype."""
    axes = [1] * (like.ndim - 1)
    return t.reshape(-1, *axes).to(like.dtype)
