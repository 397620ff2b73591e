"""Standardisation of latents, with the statistics of the training data."""

import torch
from torch import Tensor, nn

STD_FLOOR = 1e-6  # a feature that never varies is only centred, not blown up


class Standardizer(nn.Module):
    """Per-feature mean 0 and standard deviation 1.

    Args:
        shape: of one latent.
    """

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    @torch.no_grad()
    def set(self, mean: Tensor, std: Tensor) -> None:
        """Takes statistics, with shape (*shape,) each."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > STD_FLOOR, std, torch.ones_like(std)))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of the codec's scale, with shape (n, *shape), standardised."""
        return (latents.to(self.mean.dtype) - self.mean) / self.std

    def inverse(self, x: Tensor) -> Tensor:
        """Back to the codec's scale."""
        return x * self.std + self.mean
