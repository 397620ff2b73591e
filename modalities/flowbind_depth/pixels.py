"""Depth maps as they are: a latent is a square map's logarithms, and nothing is learnt."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import Codec


class DepthPixels(Codec):
    r"""Square maps of log-depth as latents of shape (1, size, size), with numbers in [-1, 1].

    $$
    x = 2 \, \frac{\log d - \log \mathrm{near}}{\log \mathrm{far} - \log \mathrm{near}} - 1
    $$

    An error of $x$ is an error of the depth's ratio wherever it is, which is what AbsRel and
    delta count; in metres, far places would outweigh near ones.

    A map of another size is resized, whatever its proportions: a pixel becomes the mean logarithm
    of the depths that are there in its area. Where there is none, it becomes the mean of the
    smallest of the areas around it, doubled from one to the next, that has one. So latents have no
    holes, and neither have decoded maps.

    Args:
        size: Pixels a side.
        near: Depth in metres that becomes -1; what is nearer, too.
        far: Depth in metres that becomes 1; what is farther, too.

    Raises:
        ValueError: `size` is below 1, or not 0 < near < far.
    """

    # Rounding loses at most 0.07% of a depth, where far is 160 times near.
    dtype = torch.float16

    def __init__(self, size: int = 64, near: float = 0.5, far: float = 80.0) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}")
        if not 0 < near < far < math.inf:
            raise ValueError(f"near is {near} and far {far}; allowed: 0 < near < far")

        self.size = size
        self.near = near
        self.far = far
        self.shape = (1, size, size)

    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Numbers in [-1, 1], float16 with shape (B, 1, size, size), of B maps in metres."""
        logs = torch.stack([self._sized(raw) for raw in raws])
        first = math.log(self.near)
        width = math.log(self.far) - first
        latents = 2 * (logs - first) / width - 1
        return latents.to(self.device, self.dtype)

    def _sized(self, raw: Tensor) -> Tensor:
        """A map's logarithms within near and far, without holes, with shape (1, size, size)."""
        # In float64, where nothing depends on the order in which an area is added up.
        depth = raw[None, None].double()
        is_there = (depth > 0).double()
        logs = depth.clamp(self.near, self.far).log() * is_there

        size = (self.size, self.size)
        total = F.interpolate(logs, size=size, mode="area")
        share = F.interpolate(is_there, size=size, mode="area")
        return _filled(total, share)[0]

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """B maps in metres, within near and far, float32 with shape (size, size)."""
        share = (latents.float().clamp(-1, 1) + 1) / 2
        first = math.log(self.near)
        width = math.log(self.far) - first
        depth = torch.exp(first + width * share)
        return list(depth[:, 0].cpu())

    def caveat(self, raw: Tensor) -> str:
        """Depths that are cut to what lies within near and far."""
        depth = raw[raw > 0]
        least, greatest = depth.aminmax()
        if least >= self.near and greatest <= self.far:
            return ""
        return (
            f"its depths are {least:.4g} to {greatest:.4g} m, and are cut to {self.near:g} to "
            f"{self.far:g} m; set near and far of the codec"
        )

    def errors(self, raws: Sequence[Any], again: Sequence[Any]) -> Tensor:
        """The mean absolute difference of log-depth, with shape (B,): about AbsRel."""
        errors = []
        for raw, other in zip(raws, again, strict=True):
            difference = self._sized(other) - self._sized(raw)
            errors.append(difference.abs().mean())
        return torch.stack(errors)


def _filled(total: Tensor, share: Tensor) -> Tensor:
    """The means of areas, and of larger areas around where nothing is there.

    Args:
        total: Sums of what is there, a share of each area, with shape (1, 1, H, W).
        share: Share of each area that is there, with the same shape; not 0 everywhere.
    """
    is_there = share > 0
    means = total / share.where(is_there, 1)
    if is_there.all():
        return means

    # Areas of twice the side; one at the edge may reach beyond.
    coarse_total = F.avg_pool2d(total, 2, ceil_mode=True)
    coarse_share = F.avg_pool2d(share, 2, ceil_mode=True)
    around = _filled(coarse_total, coarse_share)
    around = F.interpolate(around, scale_factor=2, mode="nearest")
    height, width = total.shape[2:]
    return torch.where(is_there, means, around[..., :height, :width])
