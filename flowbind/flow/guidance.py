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

# v(x_t, t, c): (n, *), (n,), (n,) -> (n, *), conditional where c is true.
Field = Callable[[Tensor, Tensor, Tensor], Tensor]


def guided(field: Field, scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The field at a scale: (n, *), (n,) -> (n, *).

    One call of twice the rows; where one of the fields alone is asked for, of the rows themselves.

    Args:
        field: Both fields.
        scale: Scale s of the guidance.
    """

    def alone(x: Tensor, t: Tensor) -> Tensor:
        condition = torch.full((len(x),), scale == 1, device=x.device)
        return field(x, t, condition)

    def both(x: Tensor, t: Tensor) -> Tensor:
        is_first = torch.arange(2 * len(x), device=x.device) < len(x)
        conditional, unconditional = field(
            torch.cat([x, x]), torch.cat([t, t]), is_first
        ).chunk(2)
        return unconditional + scale * (conditional - unconditional)

    return alone if scale in (0, 1) else both
