r"""The velocity of a latent that evolves together with a sequence of ids: MM-DiT (arXiv 2403.03206).

The latent's tokens $x$ and the sequence's $c$ go through blocks side by side. Each has weights of
its own, those of a DiT block (`flowbind.nets.dit`), and both attend to all of them together,

$$
(x', c') = \operatorname{softmax}\Bigl(\frac{(q_x, q_c)\,(k_x, k_c)^\top}{\sqrt{d}}\Bigr) (v_x, v_c) .
$$

In the last block the sequence is attended to, and no more becomes of it. The features of both times
(`flowbind.nets.joint`) modulate every block, which starts as the identity; the velocity starts at 0.

For the alignment with another network's features (REPA, arXiv 2410.06940) and attention (HASTE,
arXiv 2505.16792) the net gives, of one block, the latent's tokens and the attention among them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowbind.nets.dit import DiTBlock, initialise, modulated_by
from flowbind.nets.joint import IdEmbedding, JointTime, LatentEmbedding
from flowbind.nets.sizes import TransformerSize, check_blocks
from flowbind.nets.transformer import attend, check_heads, heads_of

# Shapes: n rows, P tokens of a latent, L ids of a sequence, net width W, h heads.


@dataclass(frozen=True)
class MMDiTConfig(TransformerSize):
    """Size of the velocity net. The defaults are those of REPA's experiment on COCO.

    Args:
        width: Features of each token.
        depth: Number of blocks.
        heads: Heads of attention, which divide the width.
        patch: Side of the squares that a grid is split into, which divides its height and width; a
            sequence or a vector has none.

    Raises:
        ValueError: a size that no network has.
    """

    width: int = 768
    depth: int = 24
    heads: int = 12
    patch: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self)


class Seen(NamedTuple):
    """The velocity, and what one block has of the latent's tokens.

    Attributes:
        velocity: Velocity, with shape (n, *shape).
        features: The tokens after the block, with shape (n, P, W).
        attention: How much each token attends to each of them in the block, by head, with shape
            (n, h, P, P); 1 in the sum of a row. None where it is not wanted.
    """

    velocity: Tensor
    features: Tensor
    attention: Tensor | None


class JointBlock(nn.Module):
    """A DiT block of each of two sequences, which attend to both: (n, P, W), (n, L, W) -> the same.

    Args:
        width: Features W of a token.
        heads: Heads of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.latent = DiTBlock(width, heads)
        self.context = DiTBlock(width, heads)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        time: Tensor,
        looks: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tokens of both and, where `looks`, how the latent's attend to one another."""
        of_x = self.latent.modulate(time)
        of_context = self.context.modulate(time)
        q_x, k_x, v_x = self.latent.attention.split(of_x.before_attention(x))
        q_c, k_c, v_c = self.context.attention.split(
            of_context.before_attention(context)
        )

        y = attend(
            torch.cat([q_x, q_c], dim=2),
            torch.cat([k_x, k_c], dim=2),
            torch.cat([v_x, v_c], dim=2),
        )
        y_x, y_context = y.split([x.shape[1], context.shape[1]], dim=2)

        attended = self.latent.attention.join(y_x)
        x = self.latent.add(x, attended, of_x)
        attended = self.context.attention.join(y_context)
        context = self.context.add(context, attended, of_context)
        return x, context, attention_of(q_x, k_x) if looks else None


class LastBlock(nn.Module):
    """A DiT block that attends to a context, too, of which no more becomes: (n, P, W) -> (n, P, W).

    Args:
        width: Features W of a token.
        heads: Heads of attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.latent = DiTBlock(width, heads)
        self.modulation = nn.Linear(width, 2 * width)
        self.kv = nn.Linear(width, 2 * width)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        time: Tensor,
        looks: bool = False,
    ) -> tuple[Tensor, None, Tensor | None]:
        """As for `JointBlock`, without a context."""
        of_x = self.latent.modulate(time)
        q_x, k_x, v_x = self.latent.attention.split(of_x.before_attention(x))
        kv = self.kv(modulated_by(self.modulation, context, time))
        k_c, v_c = heads_of(kv, self.heads, 2)

        y = attend(
            q_x,
            torch.cat([k_x, k_c], dim=2),
            torch.cat([v_x, v_c], dim=2),
        )
        x = self.latent.add(x, self.latent.attention.join(y), of_x)
        return x, None, attention_of(q_x, k_x) if looks else None


def attention_of(q: Tensor, k: Tensor) -> Tensor:
    """How queries attend to keys, (n, h, P, W / h) each -> (n, h, P, P)."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.softmax(-1)


class MMDiT(nn.Module):
    """The velocity of a latent, which sees a sequence of ids: (n, *shape) -> (n, *shape).

    Args:
        shape: Shape of one latent: of a grid, a sequence or a vector.
        vocabulary: Number V of ids. One more, V itself, is the mask.
        length: Number L of ids of a sequence.
        config: Its size.

    Attributes:
        tokens: How a latent is split into tokens.

    Raises:
        ValueError: a patch that does not divide a grid, or heads that do not divide the width.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        vocabulary: int,
        length: int,
        config: MMDiTConfig,
    ) -> None:
        super().__init__()
        width = config.width
        self.latent = LatentEmbedding(shape, config.patch, width, droppable=False)
        self.ids = IdEmbedding(vocabulary, length, width, droppable=True)
        self.time = JointTime(width)

        blocks: list[nn.Module] = []
        for _ in range(config.depth - 1):
            blocks.append(JointBlock(width, config.heads))
        last = LastBlock(width, config.heads)
        self.blocks = nn.ModuleList([*blocks, last])

        self.tokens = self.latent.tokens
        self.modulation = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, self.tokens.features)
        initialise(self, self.modulation, self.proj_out, last.modulation)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        ids: Tensor,
        t_ids: Tensor,
        is_known: Tensor,
        look_at: int | None = None,
        attends: bool = True,
    ) -> Tensor | Seen:
        """The velocity, with shape (n, *shape), and, where a block is named, what that one has.

        Args:
            x: States x_t, with shape (n, *shape).
            t: Their times in [0, 1], with shape (n,).
            ids: Present ids of the sequences, 0 to V, int64 with shape (n, L).
            t_ids: Their times in [0, 1], with shape (n,).
            is_known: Whether a row is told its sequence and the sequence's time, bool with shape
                (n,).
            look_at: Number of a block, from 1 on, whose features and attention are wanted; None
                wants none.
            attends: Whether its attention is wanted, of which kernels keep nothing, so that it is
                computed a second time.
        """
        time = self.time(t, t_ids, is_known)
        tokens = self.latent(x)
        context = self.ids(ids, is_known)

        looked: tuple[Tensor, Tensor | None] | None = None
        for number, block in enumerate(self.blocks, start=1):
            looks = number == look_at
            tokens, context, attention = block(tokens, context, time, looks and attends)
            if looks:
                looked = (tokens, attention)

        velocity = self.proj_out(modulated_by(self.modulation, tokens, time))
        velocity = self.tokens.join(velocity).clone()  # FSDP2 wants no views
        if looked is None:
            return velocity
        return Seen(velocity, *looked)
