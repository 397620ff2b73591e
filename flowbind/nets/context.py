"""What a network is told by cross-attention: a source's tokens, or in their place a learnt null token.

The null token alone is there where nothing is to be told, so that one network is the conditional
and the unconditional field; also where a source has no position at all.
"""

import torch
from torch import Tensor, nn

from flowbind.nets.positions import sinusoids
from flowbind.nets.tokens import Tokens

# Shapes: n rows, L tokens of a source, net width W.


class Context(nn.Module):
    """A source as a sequence: (n, *source), (n,) -> (n, 1 + L, W), (n, 1 + L).

    What a position that is not there holds has no influence, to the bit.

    Args:
        source: Shape of one source: of a grid, a sequence or a vector.
        masked: Whether it is a sequence whose last feature says which positions are there.
        width: Features W of the network.
        patch: Side of the squares that a grid is split into.

    Raises:
        ValueError: a patch that does not divide a grid.
    """

    def __init__(
        self,
        source: tuple[int, ...],
        masked: bool,
        width: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.masked = masked
        self.tokens = Tokens(source, patch)
        self.proj_in = nn.Linear(self.tokens.features - masked, width)
        self.positions = nn.Parameter(sinusoids(self.tokens.sides, width))
        self.null = nn.Parameter(0.02 * torch.randn(1, width))

    def forward(self, source: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens, the null token first, and whether each may be attended to.

        Args:
            source: Sources, with shape (n, *source).
            condition: Whether a row is told its source, bool with shape (n,).
        """
        tokens = self.tokens.split(source)
        is_there = condition[:, None].expand(tokens.shape[:2])
        if self.masked:
            is_there = is_there & (tokens[..., -1] > 0.5)
            tokens = tokens[..., :-1]

        tokens = torch.where(is_there[..., None], tokens, 0)
        tokens = self.proj_in(tokens) + self.positions
        null = self.null.to(tokens.dtype).expand(len(tokens), 1, -1)
        is_null = ~is_there.any(1, keepdim=True)
        return torch.cat([null, tokens], dim=1), torch.cat([is_null, is_there], dim=1)
