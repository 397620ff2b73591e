"""The straight path between the shared latent (t = 0) and a modality (t = 1), and the times it is trained at.

`x_t = (1 - t) z + t x`, with velocity `x - z` (FlowBind, arXiv 2512.15420). Shapes: n rows, latents (n, *).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

TimeRule = Literal["mixture", "both"]


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


def training_times(uniform: Tensor, choice: Tensor, rule: TimeRule, alpha: float, endpoint: float) -> Tensor:
    """Times to train at, from two independent uniform draws in [0, 1), with shape (n,) each.

    Args:
        uniform: becomes the time itself where neither end is chosen.
        choice: decides between the ends and the inside.
        rule: `mixture` draws each row's time from `(1 - alpha) U(0, 1) + alpha delta(0)` (the paper);
            `both` trains every row at a non-zero time and at 0 (the authors' code).
        alpha: share of rows at t = 0 under `mixture`.
        endpoint: share of t = 1 among the non-zero times (0.3 in the authors' code).

    Returns:
        Times with shape (1, n) under `mixture`, (2, n) under `both`.
    """
    zero = alpha if rule == "mixture" else 0.0
    t = torch.where(choice < zero + (1 - zero) * endpoint, torch.ones_like(uniform), 1 - uniform)  # in (0, 1]
    if rule == "both":
        return torch.stack([t, torch.zeros_like(t)])
    return torch.where(choice < zero, torch.zeros_like(t), t)[None]


def _rows(t: Tensor, like: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)
