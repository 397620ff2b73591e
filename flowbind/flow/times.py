r"""The times $T$ that a row is trained at, from two rules:

$$
T = \begin{cases}
\{t\}, & t \sim (1 - \alpha)\, \pi + \alpha\, \delta_0 & \text{(mixture)} \\
\{t, 0\}, & t \sim \pi & \text{(both),}
\end{cases}
\qquad \pi = (1 - e)\, U(0, 1] + e\, \delta_1 .
$$

- `mixture` is the paper's, and the default: one drift call a row.
- `both` is the authors' code: a time that is not 0, and 0 itself. Both terms are added, so it takes
  two drift calls a row.

In both, a time that is not 0 is exactly 1 with probability $e$ = `endpoint`, and uniform in
$(0, 1]$ otherwise. At $t = 1$ the input is the modality alone and the drift must guess $z$: the
first step of every generation.
"""

import torch
from torch import Tensor


def mixture_times(
    uniform: Tensor,
    choice: Tensor,
    alpha: float,
    endpoint: float,
) -> Tensor:
    """One time a row: 0 with probability alpha, else from pi (FlowBind's paper).

    Args:
        uniform: Draws in [0, 1), with shape (n,), which give the times inside.
        choice: Draws in [0, 1), with shape (n,), which decide between the ends and the inside.
        alpha: Share of rows at t = 0.
        endpoint: Share e of t = 1 among the other rows; 0.3 in the authors' code.

    Returns:
        Times with shape (1, n).
    """
    is_zero = choice < alpha
    ends = alpha + (1 - alpha) * endpoint
    is_zero_or_one = choice < ends

    t = _inside_or_one(uniform, is_zero_or_one)
    t = torch.where(is_zero, torch.zeros_like(t), t)
    return t[None]


def both_times(uniform: Tensor, choice: Tensor, endpoint: float) -> Tensor:
    """Two times a row: one from pi, and 0 (FlowBind's authors' code).

    Args:
        uniform: Draws in [0, 1), with shape (n,), which give the times inside.
        choice: Draws in [0, 1), with shape (n,), which decide between 1 and the inside.
        endpoint: Share e of t = 1 among the times that are not 0; 0.3 in the authors' code.

    Returns:
        Times with shape (2, n).
    """
    t = _inside_or_one(uniform, choice < endpoint)
    return torch.stack([t, torch.zeros_like(t)])


def logit_normal_times(normal: Tensor, mean: float, std: float) -> Tensor:
    """One time a row, in (0, 1), whose logit is normal (Esser et al., arXiv 2403.03206).

    Args:
        normal: Standard normal draws, with shape (n,).
        mean: Mean of the logit; below 0 gives earlier times.
        std: Standard deviation of the logit; 1 in the paper, small ones stay near one time.

    Returns:
        Times with shape (n,).
    """
    return torch.sigmoid(mean + std * normal)


def _inside_or_one(uniform: Tensor, is_one: Tensor) -> Tensor:
    """Times in (0, 1], with shape (n,): 1 where that is chosen."""
    one = torch.ones_like(uniform)
    return torch.where(is_one, one, 1 - uniform)
