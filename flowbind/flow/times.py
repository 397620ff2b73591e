"""Laws of the times that a flow is trained at, from uniform draws. Shapes: n rows."""

import torch
from torch import Tensor


def mixture_times(uniform: Tensor, choice: Tensor, alpha: float, endpoint: float) -> Tensor:
    """One time a row, from `(1 - alpha) U(0, 1] + alpha delta(0)`, some of the others moved to 1 (FlowBind's paper).

    Args:
        uniform: becomes the time where neither end is chosen; in [0, 1), with shape (n,).
        choice: decides between the ends and the inside; in [0, 1), with shape (n,).
        alpha: share of rows at t = 0.
        endpoint: share of t = 1 among the other rows (0.3 in the authors' code).

    Returns:
        Times with shape (1, n).
    """
    t = _inside_or_one(uniform, choice < alpha + (1 - alpha) * endpoint)
    return torch.where(choice < alpha, torch.zeros_like(t), t)[None]


def both_times(uniform: Tensor, choice: Tensor, endpoint: float) -> Tensor:
    """Every row at a time that is not 0, and at 0 (FlowBind's authors' code); arguments as for `mixture_times`.

    Returns:
        Times with shape (2, n).
    """
    t = _inside_or_one(uniform, choice < endpoint)
    return torch.stack([t, torch.zeros_like(t)])


def _inside_or_one(uniform: Tensor, is_one: Tensor) -> Tensor:
    """Times in (0, 1]: 1 where that is chosen."""
    return torch.where(is_one, torch.ones_like(uniform), 1 - uniform)
