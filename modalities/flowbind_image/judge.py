"""The judge of pictures: a small convolutional network on pixels."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbind.draws import uniform
from flowbind.judge import NeuralJudge
from flowbind_image.square import to_square

SIZE = 64  # pixels a side
CHANNELS = 24, 48, 96, 128  # of maps of 32, 16, 8 and 4 pixels a side
KERNELS = 5, 5, 3, 3
FARTHEST = 4  # pixels by which a picture is moved in training, either way


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
        return torch.stack([to_square(raw.cpu(), SIZE) for raw in raws])

    def vary(self, inputs: Tensor, streams: Tensor) -> Tensor:
        """Pictures, each moved by up to 4 pixels along both axes; its edges are continued."""
        ways = 2 * FARTHEST + 1
        chance = uniform(streams, 2) * ways
        moved = chance.long() - FARTHEST
        across = torch.arange(SIZE, device=inputs.device)
        places = across + moved[..., None]
        places = places.clamp(0, SIZE - 1)

        picture = torch.arange(len(inputs), device=inputs.device)
        picture = picture[:, None, None]
        row = places[:, 0, :, None]
        column = places[:, 1, None, :]
        varied = inputs[picture, :, row, column]
        return varied.permute(0, 3, 1, 2)


class _Levels(nn.Module):
    """Pixels in [0, 255] as numbers in [-1, 1]."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures / 127.5 - 1
