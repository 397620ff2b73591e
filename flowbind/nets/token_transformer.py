r"""The posterior of a sequence of ids that evolves together with a latent: logits of each position.

The latent's tokens $y$, read by DiT blocks of their own, are the context of blocks over the
sequence's tokens $x$,

$$
x \leftarrow x + \operatorname{Attention}(x), \qquad
x \leftarrow x + \operatorname{CrossAttention}(x, y), \qquad
x \leftarrow x + \operatorname{MLP}(x) ,
$$

DiT blocks with a context (`flowbind.nets.dit`), which both times modulate (`flowbind.nets.joint`)
and which start as the identity. Logits start at 0, a posterior in which all ids are as likely.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.dit import DiTBlock, initialise, modulated_by
from flowbind.nets.joint import IdEmbedding, JointTime, LatentEmbedding
from flowbind.nets.sizes import MOST_BLOCKS, TransformerSize, check_blocks

# Shapes: n rows, P tokens of a latent, L ids of a sequence, V ids, net width W.


@dataclass(frozen=True)
class TokenTransformerConfig(TransformerSize):
    """Size of the net of the posterior.

    Args:
        width: Features of each token.
        depth: Number of blocks over the sequence.
        heads: Heads of attention, which divide the width.
        patch: Side of the squares that a grid is split into, which divides its height and width; a
            sequence or a vector has none.
        reading: Number of blocks over the latent, before those over the sequence see it.

    Raises:
        ValueError: a size that no network has.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 2
    reading: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_blocks(self)
        if type(self.reading) is not int or not 0 <= self.reading <= MOST_BLOCKS:
            raise ValueError(
                f"{type(self).__name__}: reading is {self.reading!r}, allowed are whole numbers "
                f"from 0 to {MOST_BLOCKS}"
            )


class TokenTransformer(nn.Module):
    """Logits of each position of a sequence, which sees a latent: (n, L) -> (n, L, V).

    Args:
        vocabulary: Number V of ids. One more, V itself, is the mask.
        length: Number L of ids of a sequence.
        shape: Shape of one latent: of a grid, a sequence or a vector.
        config: Its size.

    Raises:
        ValueError: a patch that does not divide a grid, or heads that do not divide the width.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        shape: tuple[int, ...],
        config: TokenTransformerConfig,
    ) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.ids = IdEmbedding(vocabulary, length, width, droppable=False)
        self.latent = LatentEmbedding(shape, config.patch, width, droppable=True)
        self.time = JointTime(width)
        self.readers = nn.ModuleList(
            DiTBlock(width, heads) for _ in range(config.reading)
        )
        self.blocks = nn.ModuleList(
            DiTBlock(width, heads, crosses=True) for _ in range(config.depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, vocabulary)
        initialise(self, self.modulation, self.proj_out)

    def forward(
        self,
        ids: Tensor,
        t_ids: Tensor,
        x: Tensor,
        t: Tensor,
        is_known: Tensor,
    ) -> Tensor:
        """Logits of what each position is in the end, with shape (n, L, V).

        Args:
            ids: Present ids of the sequences, 0 to V, int64 with shape (n, L).
            t_ids: Their times in [0, 1], with shape (n,).
            x: States x_t of the latents, with shape (n, *shape).
            t: Their times in [0, 1], with shape (n,).
            is_known: Whether a row is told its latent and the latent's time, bool with shape (n,).
        """
        time = self.time(t_ids, t, is_known)
        context = self.latent(x, is_known)
        for block in self.readers:
            context = block(context, time)

        tokens = self.ids(ids)
        for block in self.blocks:
            tokens = block(tokens, time, [context])

        tokens = modulated_by(self.modulation, tokens, time)
        logits = F.linear(tokens, self.proj_out.weight)
        return logits + self.proj_out.bias  # FSDP2 wants no views, which a layer gives
