r"""What the two nets of a joint flow take in: a latent of numbers, a sequence of ids, both times.

Each net carries one of the two and sees the other beside it, at a time of its own. With the
features $\tau$ of a net's own time $t$ and of the other's $t'$,

$$
\tau = \operatorname{MLP} \phi(t) + \begin{cases}
\operatorname{MLP}' \phi(t') & \text{if the other is known,} \\
\tau_\varnothing & \text{else.} \end{cases}
$$

In the place of another that is not known a learnt token stands at each of its positions: what it
holds, and its time, have then no influence, to the bit. So one net is the conditional and the
unconditional field.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.positions import sinusoids
from flowbind.nets.time import TimeEmbedding
from flowbind.nets.tokens import Tokens

SPREAD = 0.02  # standard deviation of fresh learnt tokens; DiT

# Shapes: n rows, * the axes of a latent, L ids of a sequence, P tokens of a latent, net width W.


class LatentEmbedding(nn.Module):
    """A latent as tokens: (n, *shape) -> (n, P, W).

    Args:
        shape: Shape of one latent: of a grid, a sequence or a vector.
        patch: Side of the squares that a grid is split into.
        width: Features W of the net.
        droppable: Whether it may be unknown.

    Raises:
        ValueError: a patch that does not divide a grid.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        patch: int,
        width: int,
        droppable: bool,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(shape, patch)
        self.proj_in = nn.Linear(self.tokens.features, width)
        self.positions = nn.Parameter(sinusoids(self.tokens.sides, width))
        self.null = learnt_token(width) if droppable else None

    def forward(self, x: Tensor, is_known: Tensor | None = None) -> Tensor:
        """Tokens.

        Args:
            x: Latents, with shape (n, *shape).
            is_known: Whether each is known, bool with shape (n,); None where all are.
        """
        tokens = self.proj_in(self.tokens.split(x))
        return unless_dropped(tokens, is_known, self.null) + self.positions


class IdEmbedding(nn.Module):
    """A sequence of ids as tokens: (n, L) -> (n, L, W).

    Args:
        vocabulary: Number V of ids. One more, V itself, is the mask.
        length: Number L of ids of a sequence.
        width: Features W of the net.
        droppable: Whether it may be unknown.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        width: int,
        droppable: bool,
    ) -> None:
        super().__init__()
        self.pieces = nn.Embedding(vocabulary + 1, width)
        self.positions = nn.Parameter(sinusoids([length], width))
        self.null = learnt_token(width) if droppable else None

    def forward(self, ids: Tensor, is_known: Tensor | None = None) -> Tensor:
        """Tokens.

        Args:
            ids: Ids from 0 to V, int64 with shape (n, L).
            is_known: Whether each sequence is known, bool with shape (n,); None where all are.
        """
        tokens = self.pieces(ids)
        return unless_dropped(tokens, is_known, self.null) + self.positions


class JointTime(nn.Module):
    """The features of a net's own time and the other's: (n,), (n,), (n,) -> (n, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.own = TimeEmbedding(width)
        self.other = TimeEmbedding(width)
        self.null = learnt_token(width)

    def forward(self, own: Tensor, other: Tensor, is_known: Tensor) -> Tensor:
        """Features.

        Args:
            own: Times of what the net carries, in [0, 1], with shape (n,).
            other: Times of the other, likewise.
            is_known: Whether the other is known, bool with shape (n,).
        """
        features = unless_dropped(self.other(other), is_known, self.null)
        return F.silu(self.own(own) + features)


def learnt_token(width: int) -> nn.Parameter:
    """A fresh learnt token, with shape (W,)."""
    return nn.Parameter(SPREAD * torch.randn(width))


def unless_dropped(
    x: Tensor,
    is_known: Tensor | None,
    null: Tensor | None,
) -> Tensor:
    """Features, with shape (n, ..., W), in place of which a learnt token stands where not known."""
    if null is None or is_known is None:
        return x
    is_known = is_known.reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(is_known, x, null.to(x.dtype))
