r"""Alignment of a block of the velocity's net with what a frozen encoder sees of the clean sample.

With the block's tokens $h_p$ of the noisy latent, a projection $\pi$, and the encoder's features $y_p$
at the same places, that is of features (REPA, arXiv 2410.06940) and of attention (HASTE, arXiv
2505.16792)

$$
\mathcal L_{\text{f}} = \frac1P \sum_p 1 - \cos\bigl(\pi(h_p), y_p\bigr), \qquad
\mathcal L_{\text{a}} = \frac1P \sum_p \operatorname{KL}\bigl(B_p \,\Vert\, A_p\bigr), \qquad
B_{pq} \propto \exp\bigl(\cos(y_p, y_q) / \tau\bigr) ,
$$

where $A$ is the block's attention among the latent's tokens, the mean of its heads. HASTE compares
attention with that of the encoder's own blocks; here an encoder is any codec, which gives features
alone, and $B$, at $\tau = 0.1$, is how alike they are. After some steps both end (HASTE's early
stop): what helps at first holds the net back later.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.mmdit import Seen
from flowbind.nets.sizes import MOST_BLOCKS, MOST_FEATURES, check_sizes
from flowbind.nets.tokens import Tokens

TEMPERATURE = 0.1  # of cosines, where they become attention

# Shapes: n rows, P tokens of the velocity's net, W features of each, h heads; M tokens of the
# encoder, D features of each.


@dataclass(frozen=True)
class AlignConfig:
    """With what a block is aligned, and how much.

    Args:
        features: Modality whose latents are an encoder's features of the same samples: a sequence
            of as many positions as the net has tokens or of a square of another number, or a grid.
        block: Number of the block, from 1 on; 8 in REPA.
        feature_weight: Weight of the loss of features; 0.5 in REPA.
        attention_weight: Weight of the loss of attention; 0.5 in HASTE, 0 in REPA.
        until: Step from which on there is no alignment (HASTE's early stop); 150000 of it in the
            paper's training on COCO. None never stops.
        hidden: Hidden features of the projection; 2048 in REPA.

    Raises:
        ValueError: a value that is not allowed.
    """

    features: str
    block: int = 8
    feature_weight: float = 0.5
    attention_weight: float = 0.0
    until: int | None = None
    hidden: int = 2048

    def __post_init__(self) -> None:
        check_sizes(self, block=MOST_BLOCKS, hidden=MOST_FEATURES)
        for name in ("feature_weight", "attention_weight"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} must be a number, at least 0, not {value}")
        if self.until is not None and self.until < 0:
            raise ValueError(f"until is a step from 0 on, or null, not {self.until}")

    def applies(self, step: int) -> bool:
        """Whether there is alignment at a step."""
        return self.until is None or step < self.until

    def attends(self, step: int) -> bool:
        """Whether there is alignment of attention at a step."""
        return self.applies(step) and self.attention_weight > 0


class Places:
    """An encoder's features at the places of a net's tokens.

    Args:
        shape: Shape of the features: a grid, a sequence or a vector.
        sides: Tokens of the net along each axis.

    Attributes:
        tokens: The encoder's tokens, M of them with D features each.

    Raises:
        ValueError: neither as many positions as the net has tokens, nor a grid.
    """

    def __init__(self, shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
        self.tokens = Tokens(shape, patch=1)
        self.sides = tuple(sides)

        # The encoder's rows and columns, where they are laid over those of the net.
        self.grid: tuple[int, ...] | None = None
        if self.tokens.count != math.prod(sides):
            self.grid = self._grid_of(self.tokens)
            if self.grid is None or len(sides) != 2:
                raise ValueError(
                    f"features of shape {tuple(shape)} have {self.tokens.count} positions, which "
                    f"are not laid over the net's {' x '.join(map(str, sides))} tokens; choose "
                    "features of as many, of a square number, or of a grid"
                )

    @staticmethod
    def _grid_of(tokens: Tokens) -> tuple[int, ...] | None:
        """Rows and columns of the positions, where they are a grid's."""
        if len(tokens.sides) == 2:
            return tokens.sides
        side = math.isqrt(tokens.count)
        return (side, side) if side**2 == tokens.count else None

    def features(self, y: Tensor) -> Tensor:
        """Features of each of the net's tokens, (n, *shape) -> (n, P, D)."""
        features = self.tokens.split(y)
        if self.grid is None:
            return features

        grid = features.mT.reshape(len(y), self.tokens.features, *self.grid)
        grid = F.interpolate(grid, self.sides, mode="bilinear", antialias=True)
        return grid.flatten(2).mT


class Alignment:
    """The alignment of a net's block with an encoder's features.

    Args:
        config: With what it is aligned, and how much.
        shape: Shape of the features: a grid, a sequence or a vector.
        sides: Tokens of the net along each axis.

    Raises:
        ValueError: features that are not laid over the net's tokens.
    """

    def __init__(
        self,
        config: AlignConfig,
        shape: tuple[int, ...],
        sides: tuple[int, ...],
    ) -> None:
        self.config = config
        self.places = Places(shape, sides)

    def projection(self, width: int) -> nn.Module:
        """A fresh projection of the block's tokens, (n, P, W) -> (n, P, D)."""
        return projection(width, self.config.hidden, self.places.tokens.features)

    def errors(
        self,
        projection: nn.Module,
        seen: Seen,
        y: Tensor,
        step: int,
    ) -> dict[str, Tensor]:
        """The weighted errors of each row, by name, with shape (n,).

        They are 0, with gradients of 0, once the alignment has ended.

        Args:
            projection: Projection as above.
            seen: What the block has.
            y: The encoder's latents, with shape (n, *shape).
            step: Step of the batch.
        """
        config = self.config
        y = self.places.features(y)
        applies = float(config.applies(step))

        # Token by token, of which a layer gives no view, which FSDP2 would warn of.
        tokens = seen.features.flatten(0, 1)
        projected = projection(tokens).unflatten(0, seen.features.shape[:2])
        errors = feature_errors(projected, y)
        terms = {"features": applies * config.feature_weight * errors}
        if config.attention_weight:
            errors = torch.zeros_like(errors)
            if seen.attention is not None:
                errors = config.attention_weight * attention_errors(seen.attention, y)
            terms["attention"] = errors
        return terms


def projection(width: int, hidden: int, features: int) -> nn.Module:
    """REPA's projection of a block's tokens, (n, P, W) -> (n, P, D)."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, features),
    )


def feature_errors(projected: Tensor, y: Tensor) -> Tensor:
    """1 - cosine of projected tokens and features, a mean over tokens, with shape (n,).

    Args:
        projected: Projections of the block's tokens, with shape (n, P, D).
        y: Features, with shape (n, P, D).
    """
    cosine = F.cosine_similarity(projected.to(y.dtype), y, dim=-1)
    return 1 - cosine.mean(1)


def attention_errors(attention: Tensor, y: Tensor) -> Tensor:
    """Divergence of the heads' mean attention from the features' likeness, with shape (n,), in nats.

    Args:
        attention: Attention among the latent's tokens, with shape (n, h, P, P).
        y: Features, with shape (n, P, D).
    """
    direction = F.normalize(y, dim=-1)
    likeness = (direction @ direction.mT / TEMPERATURE).softmax(-1)
    mean = attention.to(y.dtype).mean(1)
    mean = mean.clamp(min=torch.finfo(mean.dtype).tiny)
    nats = torch.xlogy(likeness, likeness) - likeness * mean.log()
    return nats.sum(-1).mean(1)
