"""Standardisation of latents, with the statistics of the training data.

The kind of latent decides what a mean is taken over: nothing but the rows for a vector, with shape
(D,); the positions too for a sequence, (L, D), or a grid, (C, H, W), whose channels come first.
"""

import torch
from torch import Tensor, nn

STD_FLOOR = 1e-6  # a feature that never varies is only centred, not blown up


class Standardizer(nn.Module):
    """Mean 0 and standard deviation 1 of each feature or channel.

    Args:
        shape: Shape of one latent.
        masked: Whether it is a sequence whose last feature is 1 where a position is there and 0
            where it is padding. Statistics are then those of real positions, the mask stays as it
            is, and padding stays 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *shape: int, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked
        self.axes = _position_axes(shape)
        reduced = list(shape)
        for axis in self.axes:
            reduced[axis] = 1
        self.register_buffer("mean", torch.zeros(reduced))
        self.register_buffer("std", torch.ones(reduced))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Takes statistics over rows, with shape (*shape,) each."""
        if self.axes:
            mean, std = self._over_positions(mean.double(), std.double())

        self.mean.copy_(mean)
        varies = std > STD_FLOOR
        std = torch.where(varies, std, torch.ones_like(std))
        self.std.copy_(std)

    def _over_positions(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics over rows and positions, from those over rows, by the first two moments."""
        square = std.square() + mean.square()
        if not self.masked:
            mean = mean.mean(self.axes, keepdim=True)
            square = square.mean(self.axes, keepdim=True)
            return mean, _deviation(square, mean)

        # Padding is 0 in every feature, so that sums over all positions are those over real ones.
        real = mean[:, -1:].sum(self.axes, keepdim=True)
        least = torch.finfo(mean.dtype).tiny
        real = real.clamp(min=least)
        mean = mean.sum(self.axes, keepdim=True) / real
        square = square.sum(self.axes, keepdim=True) / real
        std = _deviation(square, mean)

        # The mask, the last feature, stays as it is.
        mean[:, -1] = 0
        std[:, -1] = 1
        return mean, std

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of the codec's scale, with shape (n, *shape), standardised."""
        centred = latents.to(self.mean.dtype) - self.mean
        x = centred / self.std
        if self.masked:
            x = x * x[..., -1:]
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Latents of the codec's scale, with shape (n, *shape), from standardised ones.

        A position of a masked sequence is there where its mask is above 1/2.
        """
        latents = x * self.std + self.mean
        if not self.masked:
            return latents

        mask = x[..., -1:] > 0.5
        mask = mask.to(x.dtype)
        features = latents[..., :-1] * mask
        return torch.cat([features, mask], dim=-1)


class Unchanged(nn.Module):
    """In place of a standardisation: ids stay as they are."""

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Ids have no statistics."""

    def forward(self, ids: Tensor) -> Tensor:
        """The ids themselves."""
        return ids

    def inverse(self, ids: Tensor) -> Tensor:
        """The ids themselves."""
        return ids


def _deviation(square: Tensor, mean: Tensor) -> Tensor:
    """The standard deviation, from the means of the squares and of the values."""
    variance = square - mean.square()
    return variance.clamp(min=0).sqrt()


def _position_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of positions: none of a vector, the first of a sequence, all but the first of a grid."""
    if len(shape) < 2:
        return ()
    if len(shape) == 2:
        return (0,)
    return tuple(range(1, len(shape)))
