r"""Guidance without a classifier (Ho and Salimans, arXiv 2207.12598).

One network is both fields, the conditional and the unconditional one. What is integrated lies on
the line through both,

$$
v_s(x, t) = v_\varnothing(x, t) + s\,\bigl(v_c(x, t) - v_\varnothing(x, t)\bigr) ,
$$

so that a scale $s$ of 1 is the conditional field, 0 the unconditional one, and more than 1 leads
farther from what is likely without the condition.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# v(x_t, t, c): (n, *), (n,), (n,) -> (n, *), conditional where c is true; it may take more of each
# row.
Field = Callable[..., Tensor]


def guided(
    field: Field,
    scale: float,
    *given: Tensor,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The field at a scale: (n, *), (n,) -> (n, *).

    One call of twice the rows; where one of the fields alone is asked for, of the rows themselves.

    Args:
        field: Both fields.
        scale: Scale s of the guidance.
        given: What else the fields take of each row, with shape (n, *).
    """

    def alone(x: Tensor, t: Tensor) -> Tensor:
        condition = torch.full((len(x),), scale == 1, device=x.device)
        return field(x, t, condition, *given)

    def both(x: Tensor, t: Tensor) -> Tensor:
        is_first = torch.arange(2 * len(x), device=x.device) < len(x)
        twice = [torch.cat([each, each]) for each in (x, t, *given)]
        velocities = field(*twice[:2], is_first, *twice[2:])
        conditional, unconditional = velocities.chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return alone if scale in (0, 1) else both
