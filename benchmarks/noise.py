"""A modality whose latents are noise of the paper's width: for measuring what flows cost."""

from pathlib import Path

import torch
from torch import Tensor

from flowbind import Codec, Modality


class NoiseCodec(Codec):
    """Latents that are the samples themselves.

    Args:
        width: of a latent.
    """

    def __init__(self, width: int = 768) -> None:
        self.width = width
        self.shape = (width,)

    def encode(self, raws):
        return torch.stack(list(raws)).to(self.device)

    def decode(self, latents, generator=None):
        return list(latents.cpu())


class Noise(Modality):
    """Vectors, which are never read from files."""

    suffixes = (".noise",)
    default_codec = NoiseCodec

    def read(self, source: str | Path) -> Tensor:
        raise ValueError(f"{source}: noise is drawn, not read")

    def write(self, raw: Tensor, path: Path) -> None:
        raise ValueError(f"{path}: noise is not written")

    def preview(self, raw: Tensor) -> str:
        return f"{float(raw.std()):.2f}"
