"""The judge of pictures: a small convolutional network on pixels."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.judge import NeuralJudge

SIZE = 64  # pixels a side
CHANNELS = 24, 48, 96, 128  # of maps of 32, 16, 8 and 4 pixels a side
KERNELS = 5, 5, 3, 3


class ImageJudge(NeuralJudge):
    """Reads labelled factors of pictures, resized to 64 x 64 pixels.

    Args:
        weights: Safetensors file; weights that read the embedded world's factors if None.
    """

    judges = "image"
    shipped = Path(__file__).parent / "weights" / "judge.safetensors"

    def build(self) -> nn.Module:
        layers: list[nn.Module] = [_Levels()]
        before = 3
        for channels, kernel in zip(CHANNELS, KERNELS, strict=True):
            layers += [
                nn.Conv2d(before, channels, kernel, stride=2, padding=kernel // 2),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            before = channels

        features = nn.Linear(before * 4 * 4, self.width)
        return nn.Sequential(*layers, nn.Flatten(), features, nn.ReLU())

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """B pictures, uint8 with shape (B, 3, 64, 64)."""
        return torch.stack([_resized(raw) for raw in raws])


class _Levels(nn.Module):
    """Pixels in [0, 255] as numbers in [-1, 1]."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.float() / 127.5 - 1


def _resized(picture: Tensor) -> Tensor:
    if picture.shape[1:] == (SIZE, SIZE):
        return picture.cpu()

    size = SIZE, SIZE
    batch = picture[None].cpu()
    return F.interpolate(batch, size=size, mode="bilinear", antialias=True)[0]
