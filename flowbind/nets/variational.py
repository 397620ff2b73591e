r"""Encoders from one kind of latent to the shape of another, and the normal distribution they give.

A variational encoder gives mean and variance of each number of a latent,

$$
z = \mu(x) + \sigma(x)\, \varepsilon, \quad \varepsilon \sim \mathcal N(0, I), \qquad
\operatorname{KL} = \tfrac12 \sum_k \bigl(\mu_k^2 + \sigma_k^2 - 1 - \log \sigma_k^2\bigr) ,
$$

the divergence from a standard normal in nats, a sum over the latent. What reads the source depends
on its kind: a transformer, layers that halve the width of each position, and one linear layer of
all of them, for a sequence (CrossFlow); convolutions for a grid; an MLP for a vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.nets.sizes import MOST_BLOCKS, MOST_FEATURES, check_sizes
from flowbind.nets.transformer import Transformer

REDUCTIONS = 3  # layers that halve the width of a position; CrossFlow's code: 768 to 96
LEAST_SIDE = 8  # of a grid, where its convolutions work
GROUPS = 8  # of GroupNorm
LOG_VARIANCE = (-30.0, 20.0)  # bounds, as of latent diffusion's autoencoders

# Shapes: n rows, * the axes of what is encoded.


@dataclass(frozen=True)
class EncoderSize:
    """Size of an encoder. The defaults are those of the text encoder of CrossFlow's code.

    Args:
        width: Features of a position, a multiple of 8.
        depth: Number of blocks: of the transformer, of convolutions, or of hidden layers of an MLP;
            0 of an MLP is a linear map, whose starts add up as the sources do.
        heads: Heads of a transformer's attention, which divide the width.
        hidden: Hidden features of a transformer's MLPs.

    Raises:
        ValueError: a size that no network has.
    """

    width: int = 768
    depth: int = 11
    heads: int = 8
    hidden: int = 1024

    def __post_init__(self) -> None:
        check_sizes(
            self,
            width=MOST_FEATURES,
            depth=MOST_BLOCKS,
            heads=MOST_FEATURES,
            hidden=MOST_FEATURES,
        )
        if self.width % 2**REDUCTIONS:
            raise ValueError(
                f"{type(self).__name__}: width is {self.width}, allowed are multiples of "
                f"{2**REDUCTIONS}"
            )


class Normal(NamedTuple):
    """Independent normal distributions: their means and standard deviations, with shape (n, *)."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """What standard normal draws, with shape (n, *), become."""
        return self.mean + self.std * noise


def divergence(normal: Normal) -> Tensor:
    """KL from a standard normal, in nats, a sum over each row's numbers, with shape (n,)."""
    mean, std = normal
    numbers = mean.square() + std.square() - 1 - 2 * std.log()
    return numbers.flatten(1).sum(1) / 2


class Variational(nn.Module):
    """A normal distribution of latents of a shape, for each source: (n, *source) -> (n, *shape).

    Args:
        source: Shape of one source.
        masked: Whether it is a sequence whose last feature says which positions are there.
        shape: Shape of one latent.
        size: Size of the encoder.
    """

    def __init__(
        self,
        source: tuple[int, ...],
        masked: bool,
        shape: tuple[int, ...],
        size: EncoderSize,
    ) -> None:
        super().__init__()
        self.encoder = encoder_of(source, masked, (2, *shape), size)

    def forward(self, x: Tensor) -> Normal:
        mean, log_variance = self.encoder(x).unbind(1)
        std = (log_variance.clamp(*LOG_VARIANCE) / 2).exp()
        return Normal(mean.clone(), std)  # FSDP2 wants no views


class Fixed(nn.Module):
    """A normal distribution of one standard deviation about what a net gives, for each source.

    Args:
        net: Network from sources to latents, with shape (n, *source) -> (n, *shape).
        shape: Shape of one latent.
        std: Standard deviation of each number; 0 is the latent itself.
    """

    def __init__(self, net: nn.Module, shape: tuple[int, ...], std: float) -> None:
        super().__init__()
        self.net = net
        self.shape = shape
        self.std = std

    def forward(self, x: Tensor) -> Normal:
        mean = self.net(x).reshape(len(x), *self.shape).clone()  # FSDP2 wants no views
        return Normal(mean, torch.full_like(mean, self.std))


def encoder_of(
    source: tuple[int, ...],
    masked: bool,
    shape: tuple[int, ...],
    size: EncoderSize,
) -> nn.Module:
    """An encoder of the source's kind: (n, *source) -> (n, *shape).

    Args:
        source: Shape of one source: of a vector (D,), a sequence (L, D) or a grid (C, H, W).
        masked: Whether it is a sequence whose last feature says which positions are there.
        shape: Shape of what comes out; the first axis counts latents of the shape that follows.
        size: Size of the encoder.

    Raises:
        ValueError: a source of another kind.
    """
    if len(source) == 1:
        return VectorEncoder(source, shape, size)
    if len(source) == 2:
        return SequenceEncoder(source, masked, shape, size)
    if len(source) == 3:
        return GridEncoder(source, shape, size)
    raise ValueError(
        f"a latent of shape {tuple(source)} is no vector (D,), sequence (L, D) or grid (C, H, W)"
    )


class VectorEncoder(nn.Module):
    """An MLP: (n, D) -> (n, *shape). Without hidden layers, at a depth of 0, it is linear."""

    def __init__(
        self,
        source: tuple[int, ...],
        shape: tuple[int, ...],
        size: EncoderSize,
    ) -> None:
        super().__init__()
        self.shape = shape
        features = source[0]
        layers: list[nn.Module] = []
        for number in range(size.depth):
            layers += [nn.LayerNorm(features)] if number else []
            layers += [nn.Linear(features, size.width), nn.GELU()]
            features = size.width
        self.layers = nn.Sequential(*layers, nn.Linear(features, math.prod(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).reshape(len(x), *self.shape)


class SequenceEncoder(nn.Module):
    """A transformer, layers that halve each position's width, one linear layer of all of them."""

    def __init__(
        self,
        source: tuple[int, ...],
        masked: bool,
        shape: tuple[int, ...],
        size: EncoderSize,
    ) -> None:
        super().__init__()
        self.masked = masked
        self.shape = shape
        length, features = source
        self.transformer = Transformer(
            length,
            features - masked,
            width=size.width,
            depth=size.depth,
            heads=size.heads,
            hidden=size.hidden,
        )

        width = size.width
        layers: list[nn.Module] = []
        for _ in range(REDUCTIONS):
            layers += [nn.Linear(width, width // 2, bias=False), nn.GELU()]
            width //= 2
        # Without biases, so that positions that are not there stay 0.
        self.reduction = nn.Sequential(*layers)
        self.proj_out = nn.Linear(length * width, math.prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        mask = None
        if self.masked:
            mask = x[..., -1] > 0.5
            x = x[..., :-1]
        reduced = self.reduction(self.transformer(x, mask))
        return self.proj_out(reduced.flatten(1)).reshape(len(x), *self.shape)


class GridEncoder(nn.Module):
    """Convolutions at a coarse resolution: (n, C, H, W) -> (n, *shape).

    The grid is folded, a square of positions into the features of one, until its shorter side has
    8 to 15 positions. To a grid whose sides are as many times as large it is unfolded again; to
    any other shape one linear layer leads, of all positions.
    """

    def __init__(
        self,
        source: tuple[int, ...],
        shape: tuple[int, ...],
        size: EncoderSize,
    ) -> None:
        super().__init__()
        self.shape = shape
        channels, height, width = source
        self.fold = 1
        while (
            min(height, width) >= 2 * LEAST_SIDE and height % 2 == 0 and width % 2 == 0
        ):
            height, width = height // 2, width // 2
            self.fold *= 2

        fold = self.fold
        self.proj_in = nn.Conv2d(channels, size.width, fold, stride=fold)
        self.blocks = nn.ModuleList(ConvBlock(size.width) for _ in range(size.depth))
        self.norm = nn.GroupNorm(GROUPS, size.width)

        self.unfold = unfolding((height, width), shape)
        self.proj_out: nn.Module
        if self.unfold:
            self.proj_out = nn.ConvTranspose2d(
                size.width,
                math.prod(shape[:-2]),
                self.unfold,
                stride=self.unfold,
            )
        else:
            reduced = size.width // 2**REDUCTIONS
            self.reduction = nn.Conv2d(size.width, reduced, 1)
            self.proj_out = nn.Linear(reduced * height * width, math.prod(shape))

    def forward(self, x: Tensor) -> Tensor:
        rows = len(x)
        x = self.proj_in(x)
        for block in self.blocks:
            x = block(x)
        x = F.gelu(self.norm(x))

        if not self.unfold:
            x = self.reduction(x).flatten(1)
        return self.proj_out(x).reshape(rows, *self.shape)


class ConvBlock(nn.Module):
    """Two convolutions, each behind GroupNorm and GELU, beside a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(GROUPS, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def unfolding(sides: tuple[int, int], shape: Sequence[int]) -> int:
    """How many times as large a grid of a shape is along both sides; 0 where it is no such grid."""
    if len(shape) != 4:
        return 0
    height, width = sides
    times = shape[-2] // height
    if times and tuple(shape[-2:]) == (times * height, times * width):
        return times
    return 0
