r"""Arithmetic of the states from which flows begin: with terms $p$ added and terms $m$ taken away,
at a strength $a$, 1 where nothing else is said,

$$
z = z_{\text{source}} + a \Bigl(\sum_p z_p - \sum_m z_m\Bigr), \qquad
z_s = (1 - s)\, z_0 + s\, z_1 \quad \text{between two.}
$$
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def shift(
    state: Tensor,
    plus: Sequence[Tensor],
    minus: Sequence[Tensor],
    strength: float = 1.0,
) -> Tensor:
    """A state with others added and taken away, all of them with shape (B, *).

    What is added and what is taken away are summed first, so that the same on both sides leaves the
    state as it is, to the bit.
    """
    nothing = torch.zeros_like(state)
    return state + strength * (sum(plus, nothing) - sum(minus, nothing))


def weigh(states: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """States, with shape (B, *) each, scaled so that their mean is the one by these weights.

    Equal weights leave them as they are, to the bit.

    Args:
        states: State of each source.
        weights: Weight of each, at least 0; their sum is above 0.
    """
    share = len(weights) / sum(weights)
    return [
        state * (weight * share) for state, weight in zip(states, weights, strict=True)
    ]


def between(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """States on the line through two, with shape (N, *): exactly these two at the shares 0 and 1.

    Args:
        first: State at the share 0, with shape (1, *).
        second: State at the share 1, with shape (1, *).
        shares: Shares of the second, with shape (N,).
    """
    column = shares.reshape(-1, *[1] * (first.ndim - 1))
    return torch.lerp(first, second, column)


def standardize(state: Tensor) -> Tensor:
    """Each sample's state as one vector with mean 0 and standard deviation 1, with shape (B, *).

    CrossFlow's authors do this with the result of arithmetic: `(x - mean) / std`.
    """
    vectors = state.flatten(1)
    mean = vectors.mean(1, keepdim=True)
    std = vectors.std(1, keepdim=True)
    return ((vectors - mean) / std).reshape(state.shape)
