r"""A diffusion transformer (DiT, arXiv 2212.09748), with self-attention alone or a context beside it.

A latent is split into tokens: a grid into squares of `patch` x `patch`, a sequence into its
positions, a vector is one token. With the features $\tau$ of the time, a block is

$$
x \leftarrow x + g_1 \odot \operatorname{Attention}\bigl(\operatorname{LN}(x) \odot (1 + s_1) + b_1\bigr),
\qquad
x \leftarrow x + g_2 \odot \operatorname{MLP}\bigl(\operatorname{LN}(x) \odot (1 + s_2) + b_2\bigr),
$$

where $(b_1, s_1, g_1, b_2, s_2, g_2) = A\,\tau$ and $A$ starts at 0, so that a block starts as the
identity (adaLN-Zero). The last layer starts at 0 too. Which of two fields the net is, the
conditional or the unconditional one, an indicator says: one of two learnt tokens beside the
latent's (CrossFlow), or added to the time.

With a context $c$, a sequence of tokens, there is between the two

$$
x \leftarrow x + \operatorname{CrossAttention}\bigl(\operatorname{LN}(x), c\bigr) ,
$$

whose last layer starts at 0, too, and which the time does not scale (as in PixArt, arXiv
2310.00426).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.context import Context
from flowbind.nets.positions import sinusoids
from flowbind.nets.sizes import TransformerSize
from flowbind.nets.time import TimeEmbedding
from flowbind.nets.tokens import Tokens
from flowbind.nets.transformer import CrossAttention, SelfAttention

RATIO = 4  # hidden features of a block's MLP, as a multiple of the width; DiT
EPS = 1e-6  # of LayerNorm; DiT

# Shapes: n rows, L tokens, F features of each, M tokens of the context, net width W.


@dataclass(frozen=True)
class DiTConfig(TransformerSize):
    """Size of the velocity net. The defaults come near the 0.95 billion of CrossFlow's paper.

    Args:
        width: Features of each token.
        depth: Number of blocks.
        heads: Heads of attention, which divide the width.
        patch: Side of the squares that a grid is split into, which divides its height and width; a
            sequence or a vector has none.
        indicator: How the net is told which field it is: `tokens`, one of two learnt ones beside
            the latent's (CrossFlow's paper), or `time`, added to it (the authors' DiT).

    Raises:
        ValueError: a size that no network has, or another indicator.
    """

    width: int = 1536
    depth: int = 20
    heads: int = 24
    patch: int = 2
    indicator: Literal["tokens", "time"] = "tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.indicator not in ("tokens", "time"):
            raise ValueError(
                f"DiTConfig: indicator is tokens or time, not '{self.indicator}'"
            )


class DiTBlock(nn.Module):
    """Attention, then an MLP, each scaled, shifted and gated by the time. Starts as identity.

    Args:
        width: Features W of a token.
        heads: Heads of attention.
        crosses: Whether it attends to a context, too.
    """

    def __init__(self, width: int, heads: int, crosses: bool = False) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, RATIO * width),
            nn.GELU(approximate="tanh"),
            nn.Linear(RATIO * width, width),
        )
        self.cross_attention = CrossAttention(width, heads) if crosses else None

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Sequence[Tensor] = (),
    ) -> Tensor:
        """Tokens, with shape (n, L, W).

        Args:
            x: Tokens, with shape (n, L, W).
            time: Features of the time, with shape (n, W).
            context: What it attends to, with shape (n, M, W), and perhaps whether each of it is
                there, bool with shape (n, M); none where the block has no cross-attention.
        """
        modulation = self.modulate(time)
        attended = self.attention(modulation.before_attention(x))
        return self.add(x, attended, modulation, context)

    def modulate(self, time: Tensor) -> "Modulation":
        """What a time, of features with shape (n, W), does to the block."""
        return Modulation(*self.modulation(time)[:, None].chunk(6, dim=2))

    def add(
        self,
        x: Tensor,
        attended: Tensor,
        modulation: "Modulation",
        context: Sequence[Tensor] = (),
    ) -> Tensor:
        """The block's output, with shape (n, L, W).

        Args:
            x: Tokens that went in, with shape (n, L, W).
            attended: What attention gives for them, with shape (n, L, W).
            modulation: What the time does.
            context: As for `forward`.
        """
        x = torch.addcmul(x, modulation.gate_1, attended)
        if self.cross_attention is not None:
            x = x + self.cross_attention(normed(x), *context)
        hidden = self.mlp(modulated(x, modulation.shift_2, modulation.scale_2))
        return torch.addcmul(x, modulation.gate_2, hidden)


class Modulation(NamedTuple):
    """Shift, scale and gate of attention, then of the MLP, with shape (n, 1, W) each."""

    shift_1: Tensor
    scale_1: Tensor
    gate_1: Tensor
    shift_2: Tensor
    scale_2: Tensor
    gate_2: Tensor

    def before_attention(self, x: Tensor) -> Tensor:
        """Tokens as attention sees them, with shape (n, L, W)."""
        return modulated(x, self.shift_1, self.scale_1)


class DiT(nn.Module):
    """Both velocity fields of a latent: (n, *shape), (n,), (n,) -> (n, *shape).

    Args:
        shape: Shape of one latent: of a grid, a sequence or a vector.
        config: Its size.
        context: What makes a source the context of cross-attention; without one there is none.

    Raises:
        ValueError: a patch that does not divide a grid, or heads that do not divide the width.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        config: DiTConfig,
        context: Context | None = None,
    ) -> None:
        super().__init__()
        self.tokens = Tokens(shape, config.patch)
        self.context = context
        self.by_token = config.indicator == "tokens"

        width = config.width
        self.proj_in = nn.Linear(self.tokens.features, width)
        self.positions = nn.Parameter(sinusoids(self.tokens.sides, width))
        self.indicators = nn.Parameter(0.02 * torch.randn(2, width))
        self.time = TimeEmbedding(width)
        self.blocks = nn.ModuleList(
            DiTBlock(width, config.heads, crosses=context is not None)
            for _ in range(config.depth)
        )
        self.modulation = nn.Linear(width, 2 * width)
        self.proj_out = nn.Linear(width, self.tokens.features)
        initialise(self, self.modulation, self.proj_out)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor,
        source: Tensor | None = None,
    ) -> Tensor:
        """The velocity.

        Args:
            x: States x_t, with shape (n, *shape).
            t: Times in [0, 1], with shape (n,).
            condition: Whether a row's field is the conditional one, bool with shape (n,).
            source: What the context is made of, with shape (n, *source); none where there is none.
        """
        unconditional, conditional = self.indicators
        indicator = torch.where(condition[:, None], conditional, unconditional)
        time = self.time(t)
        tokens = self.proj_in(self.tokens.split(x)) + self.positions

        if self.by_token:
            tokens = torch.cat([indicator[:, None].to(tokens.dtype), tokens], dim=1)
        else:
            time = time + indicator

        time = F.silu(time)
        context: Sequence[Tensor] = ()
        if self.context is not None:
            context = self.context(source, condition)
        for block in self.blocks:
            tokens = block(tokens, time, context)
        if self.by_token:
            tokens = tokens[:, 1:]

        velocity = self.proj_out(modulated_by(self.modulation, tokens, time))
        return self.tokens.join(velocity).clone()  # FSDP2 wants no views


def initialise(net: nn.Module, *last: nn.Linear) -> None:
    """DiT's: Xavier's weights, biases 0, and 0 for what modulates and for the last layers.

    Args:
        net: A net, which may have blocks.
        last: Its last layers, and what modulates outside of blocks.
    """
    zeros = list(last)
    for part in net.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        if isinstance(part, DiTBlock):
            zeros.append(part.modulation)
            if part.cross_attention is not None:
                zeros.append(part.cross_attention.proj_out)

    for layer in zeros:
        nn.init.zeros_(layer.weight)


def modulated_by(modulation: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    """LayerNorm of tokens, with shape (n, L, W), by a layer's shift and scale of the time.

    Args:
        modulation: Layer from features of the time to shift and scale, (n, W) -> (n, 2 W).
        x: Tokens, with shape (n, L, W).
        time: Features of the time, with shape (n, W).
    """
    shift, scale = modulation(time)[:, None].chunk(2, dim=2)
    return modulated(x, shift, scale)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm of tokens, with shape (n, L, W), scaled and shifted as the time says."""
    return torch.addcmul(shift, normed(x), 1 + scale)


def normed(x: Tensor) -> Tensor:
    """LayerNorm of tokens, with shape (n, L, W), without weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)
