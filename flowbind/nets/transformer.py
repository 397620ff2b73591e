r"""A transformer of sequences, of which not every position need be there.

A block is, with $\operatorname{LN}$ before what it feeds,

$$
x \leftarrow x + \operatorname{Attention}(\operatorname{LN} x), \qquad
x \leftarrow x + \operatorname{MLP}(\operatorname{LN} x) .
$$

Positions that are not there are 0 where they enter, are attended to by none, and are 0 where they
leave: what they hold has no influence, to the bit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.positions import sinusoids

# Shapes: n rows, L positions, M of another sequence, D features, net width W.


class SelfAttention(nn.Module):
    """Attention of every position to all that are there: (n, L, W) -> (n, L, W).

    Args:
        width: Features W.
        heads: Number of heads, which divides the width.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj_out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends.

        Args:
            x: Features, with shape (n, L, W).
            mask: Whether a position may be attended to, bool with shape (n, L); all if None.
        """
        q, k, v = self.split(x)
        if mask is not None:
            mask = mask[:, None, None]
        y = attend(q, k, v, mask)
        return self.join(y)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, with shape (n, heads, L, W / heads) each."""
        q, k, v = heads_of(self.qkv(x), self.heads, 3)
        return q, k, v

    def join(self, y: Tensor) -> Tensor:
        """What is added to the features, with shape (n, L, W), of what the heads attended to."""
        rows, heads, length, features = y.shape
        return self.proj_out(y.transpose(1, 2).reshape(rows, length, heads * features))


class CrossAttention(nn.Module):
    """Attention of every position to those of another sequence: (n, L, W), (n, M, W) -> (n, L, W).

    Args:
        width: Features W of both.
        heads: Number of heads, which divides the width.

    Raises:
        ValueError: it does not.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attends.

        Args:
            x: Features, with shape (n, L, W).
            context: Features of the other sequence, with shape (n, M, W).
            mask: Whether a position of it may be attended to, bool with shape (n, M); at least one
                of each row. All if None.
        """
        (q,) = heads_of(self.q(x), self.heads, 1)
        k, v = heads_of(self.kv(context), self.heads, 2)
        if mask is not None:
            mask = mask[:, None, None]
        y = attend(q, k, v, mask)
        return self.proj_out(y.transpose(1, 2).reshape(x.shape))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """What queries gather of values, of every head for itself: (n, heads, L, F) -> (n, heads, L, F).

    On processors bfloat16 is computed in float32, whose backward takes a third to a seventh of the
    time there (PyTorch 2.13).

    Args:
        q: Queries, with shape (n, heads, L, F).
        k: Keys, with shape (n, heads, M, F).
        v: Values, with shape (n, heads, M, F).
        mask: Whether a key may be attended to, bool with a shape that expands to (n, heads, L, M);
            all if None.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    with torch.autocast("cpu", enabled=False):
        exact = q.float(), k.float(), v.float()
        return F.scaled_dot_product_attention(*exact, attn_mask=mask).to(q.dtype)


def heads_of(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """Features of several parts, (n, L, parts * W), by head: (n, heads, L, W / heads) for each."""
    rows, length, features = x.shape
    x = x.reshape(rows, length, parts, heads, features // (parts * heads))
    return x.permute(2, 0, 3, 1, 4).unbind()


def check_heads(width: int, heads: int) -> None:
    """Refuses heads that do not divide the width."""
    if width % heads:
        raise ValueError(
            f"the width {width} is no multiple of the {heads} heads of attention"
        )


class Block(nn.Module):
    """Attention, then an MLP, each behind a LayerNorm and beside a residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, width),
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(x)


class Transformer(nn.Module):
    """Features of a sequence's positions in their context: (n, L, D) -> (n, L, W).

    Args:
        length: Number L of positions.
        features: Features D of each.
        width: Features W of the residual stream.
        depth: Number of blocks.
        heads: Heads of attention.
        hidden: Hidden features of a block's MLP.
    """

    def __init__(
        self,
        length: int,
        features: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, width)
        self.positions = nn.Parameter(sinusoids([length], width))
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features in context.

        Args:
            x: Sequences, with shape (n, L, D).
            mask: Whether a position is there, bool with shape (n, L); all are if None.
        """
        if mask is None:
            return self._in_context(x, None)

        # Of a sequence without any position all are attended to: a softmax over none has no value.
        is_there = mask[..., None]
        attended = mask | ~mask.any(1, keepdim=True)
        x = self._in_context(torch.where(is_there, x, 0), attended)
        return torch.where(is_there, x, 0)

    def _in_context(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.proj_in(x) + self.positions
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
