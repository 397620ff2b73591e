r"""The drift net is linear $D \to W$; residual blocks; linear $W \to D$. With
$\tau = \operatorname{SiLU}(\operatorname{MLP}(\phi(t)))$, a block is

$$
x + g \odot \operatorname{MLP}\bigl(\operatorname{LN}(x) \odot (1 + s) + b\bigr),
\qquad (b, s, g) = A\,\tau ,
$$

where $A$ is linear with a bias and starts at 0, so a block starts as the identity (adaLN-Zero). The
block's MLP is linear $W \to 4W$, GELU, linear $4W \to W$; $\operatorname{LN}$ has no affine
parameters.

The head is linear $D \to W$; residual blocks of LayerNorm, SiLU, linear, LayerNorm, SiLU, dropout,
linear, the last starting at 0; linear $W \to D$.

The layout is that of the authors' released model (FlowBind, arXiv 2512.15420): at $D = 768$,
$W = 1152$ and depth 12 a drift net has 178,684,032 parameters, and at depth 3 a head 9,754,752.
(The authors' head has 10,640,256, of which half of the last layer is unused.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.draws import fork, uniform
from flowbind.nets.sizes import MOST_BLOCKS, MOST_FEATURES, check_sizes
from flowbind.nets.time import TimeEmbedding

# Shapes: n rows, latent width D, net width W.


@dataclass(frozen=True)
class DriftConfig:
    """Size of a drift net. The defaults are the paper's.

    Args:
        width: Features of the residual stream.
        depth: Number of residual blocks.
        ratio: Hidden features of a block's MLP, as a multiple of the width.
    """

    width: int = 1152
    depth: int = 12
    ratio: int = 4

    def __post_init__(self) -> None:
        check_sizes(
            self,
            width=MOST_FEATURES,
            depth=MOST_BLOCKS,
            ratio=MOST_FEATURES,
        )


@dataclass(frozen=True)
class HeadConfig:
    """Size of a head of the auxiliary encoder. The defaults are the paper's.

    Args:
        width: Features of the residual stream.
        depth: Number of residual blocks.
        dropout: Probability of dropping a feature in a block, in [0, 1); 0.1 in the authors' code.
    """

    width: int = 1152
    depth: int = 3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"HeadConfig: dropout is a probability in [0, 1), not {self.dropout}"
            )
        check_sizes(self, width=MOST_FEATURES, depth=MOST_BLOCKS)


class DriftBlock(nn.Module):
    """adaLN-Zero residual MLP: `x + gate * mlp(norm(x) * (1 + scale) + shift)`.

    Shift b, scale s and gate g come from the time. It starts as the identity.
    """

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, ratio * width),
            nn.GELU(),
            nn.Linear(ratio * width, width),
        )

        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(time).chunk(3, dim=1)
        normed = F.layer_norm(x, x.shape[1:], eps=1e-6)  # eps: authors' code
        hidden = self.mlp(torch.addcmul(shift, normed, 1 + scale))
        return torch.addcmul(x, gate, hidden)


class Drift(nn.Module):
    """Drift net `v(x_t, t)` on latents that are vectors: (n, D), (n,) -> (n, D).

    Raises:
        ValueError: the latent has more than one axis; such a modality builds its own net.
    """

    def __init__(
        self,
        *shape: int,
        width: int = 1152,
        depth: int = 12,
        ratio: int = 4,
    ) -> None:
        super().__init__()
        features = _vector(shape)
        self.time = TimeEmbedding(width)
        self.proj_in = nn.Linear(features, width)
        self.blocks = nn.ModuleList(DriftBlock(width, ratio) for _ in range(depth))
        self.proj_out = nn.Linear(width, features)
        self.register_load_state_dict_pre_hook(_rename_projections)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # A solver's rows are all at one time, shown by a view of stride 0: the modulations are then
        # computed once.
        time = F.silu(self.time(t[:1] if t.stride() == (0,) else t))

        x = self.proj_in(x)
        for block in self.blocks:
            x = block(x, time)
        return self.proj_out(x)


def _rename_projections(
    drift: Drift,
    state: dict[str, Tensor],
    prefix: str,
    *_: object,
) -> None:
    """Weights of before format 3 of released models called the projections otherwise."""
    for old, new in (("inp.", "proj_in."), ("out.", "proj_out.")):
        for part in ("weight", "bias"):
            if prefix + old + part in state:
                state[prefix + new + part] = state.pop(prefix + old + part)


class Dropout(nn.Module):
    """Sets features to 0 with a probability, and scales the others up.

    It draws from streams that are arguments.

    Args:
        probability: Probability of a feature to become 0, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor, streams: Tensor | None) -> Tensor:
        """Features, with shape (n, W).

        Args:
            x: Features, with shape (n, W).
            streams: A random stream for each row, with shape (n,); None leaves `x` as it is.
        """
        if not self.training or self.probability == 0 or streams is None:
            return x
        mask = uniform(streams, *x.shape[1:]) >= self.probability
        return x * mask / (1 - self.probability)


class HeadBlock(nn.Module):
    """Residual MLP of two linear layers, each behind LayerNorm and SiLU. Starts as identity."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.SiLU(),
            Dropout(dropout),
            last,
        )

    def forward(self, x: Tensor, streams: Tensor | None) -> Tensor:
        hidden = x
        for layer in self.layers:
            hidden = (
                layer(hidden, streams) if isinstance(layer, Dropout) else layer(hidden)
            )
        return x + hidden


class Head(nn.Module):
    """A modality's estimate `h(x)` of the shared latent: (n, D) -> (n, D).

    Raises:
        ValueError: the latent has more than one axis; such a modality builds its own net.
    """

    def __init__(
        self,
        *shape: int,
        width: int = 1152,
        depth: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        features = _vector(shape)
        blocks = (HeadBlock(width, dropout) for _ in range(depth))
        self.layers = nn.Sequential(
            nn.Linear(features, width),
            *blocks,
            nn.Linear(width, features),
        )

    def forward(self, x: Tensor, streams: Tensor | None = None) -> Tensor:
        first, *blocks, last = self.layers

        x = first(x)
        for number, block in enumerate(blocks):
            # Each block draws from streams of its own.
            x = block(x, None if streams is None else fork(streams, number))
        return last(x)


def _vector(shape: tuple[int, ...]) -> int:
    if len(shape) != 1:
        raise ValueError(
            f"the MLP nets take latents that are vectors, not of shape {shape}; "
            "give the modality its own build_drift and build_head"
        )
    return shape[0]
