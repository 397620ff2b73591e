"""The small codec of point clouds: 1,024 coloured points to a latent of 64 features and back.

Encoder: a cloud is moved to its middle and scaled to radius 1; then it is known by the averages
over its points of fixed random waves (samples of its characteristic function), beside its middle,
mean colour and radius. Averages do not depend on the order of the points. A small MLP turns them
into the latent. Decoder: an MLP gives the weights with which learned clouds are added up, one set
for places and one for colours.

Shapes: B clouds, n points, N = 1,024, latent width D = 64.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from flowbind.codec import NeuralCodec
from flowbind_points.chamfer import chamfer
from flowbind_points.unit_sphere import thin

POINTS = 1024
LATENT = 64
WAVES = 256  # fixed random waves; the last quarter also runs through colour
# Standard deviation of a wave's radians, for each radius along an axis or each unit of colour.
FREQUENCY = 1.5
LEARNED = 192, 32  # clouds that are added up: for places, for colours
CHUNK = 4  # clouds whose waves are held at once: they stay in the processor's cache


class SmallPoints(NeuralCodec):
    """Codec of clouds of coloured points; it gives 1,024 of them.

    Of a cloud with more points a fixed random choice is taken; in one with fewer, points repeat
    evenly.

    Args:
        scale: World units that the network sees as 1; for clouds whose typical radius is far from
            1.
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shape = (LATENT,)
    version = 2  # 1 took every k-th point of a file
    shipped: ClassVar[Path] = Path(__file__).parent / "weights" / "small.safetensors"

    def __init__(self, scale: float = 1.0, weights: str | None = None) -> None:
        super().__init__(weights)
        if not scale > 0:
            raise ValueError(
                f"scale is {scale}, allowed is above 0: give the world units that count as 1"
            )

        self.scale = scale

    def build(self) -> nn.Module:
        return CloudNet()

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        clouds = torch.stack([thin(raw, POINTS) for raw in raws])
        return torch.cat([clouds[..., :3] / self.scale, clouds[..., 3:]], dim=2)

    def errors(self, raws: Sequence[Tensor], again: Sequence[Tensor]) -> Tensor:
        """The Chamfer distance of the clouds' places, in units of `scale`, with shape (B,)."""
        return chamfer(self.prepare(raws)[..., :3], self.prepare(again)[..., :3])

    def finish(self, outputs: Tensor) -> list[Tensor]:
        clouds = torch.cat(
            [outputs[..., :3] * self.scale, outputs[..., 3:].clamp(0, 1)], dim=2
        )
        return list(clouds.cpu())


class CloudNet(nn.Module):
    """The network: clouds to latents, and back to clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Linear(6, WAVES).requires_grad_(False)
        self.summary = nn.Sequential(
            nn.BatchNorm1d(WAVES + 7),
            nn.Linear(WAVES + 7, 256),
            nn.ReLU(),
            nn.Linear(256, LATENT),
        )
        # Every feature has the same spread.
        self.standard = nn.BatchNorm1d(LATENT, affine=False)
        self.weights = nn.Sequential(
            nn.Linear(LATENT, 256), nn.GELU(), nn.Linear(256, sum(LEARNED)), nn.GELU()
        )
        self.place = nn.Linear(LEARNED[0], 3 * POINTS)
        self.colour = nn.Linear(LEARNED[1], 3 * POINTS)

        nn.init.normal_(self.waves.weight, std=FREQUENCY)
        nn.init.zeros_(self.waves.weight[: WAVES * 3 // 4, 3:])
        nn.init.uniform_(self.waves.bias, 0, 2 * torch.pi)
        nn.init.normal_(self.place.bias, std=0.5)  # starts as a cloud, not as one point

    def encode(self, clouds: Tensor) -> Tensor:
        """Latents, with shape (B, D), of clouds, with shape (B, n, 6)."""
        moments = torch.cat([self._moments(chunk) for chunk in clouds.split(CHUNK)])
        return self.standard(self.summary(moments))

    def decode(self, latents: Tensor) -> Tensor:
        """Clouds, with shape (B, N, 6), of latents, with shape (B, D)."""
        place_weights, colour_weights = self.weights(latents).split(LEARNED, dim=1)
        place = self.place(place_weights).unflatten(1, (POINTS, 3))
        colour = self.colour(colour_weights).unflatten(1, (POINTS, 3))
        return torch.cat([place, colour], dim=2)

    def _moments(self, clouds: Tensor) -> Tensor:
        """What describes a cloud: (B, n, 6) to (B, 263).

        Each wave's average over the points, the middle, the mean colour and the radius.
        """
        # Exact where a cloud is small and far away, whose mean float32 would round.
        near = clouds - clouds[:, :1]
        mean = near.mean(1, keepdim=True)
        middle = clouds[:, :1] + mean
        place = (near - mean)[..., :3]
        radius = place.square().sum(2).mean(1).sqrt().clamp(min=1e-6)[:, None]

        points = torch.cat([place / radius[..., None], clouds[..., 3:]], dim=2)
        averages = self.waves(points).sin_().mean(1)
        return torch.cat([averages, middle[:, 0], radius.log()], dim=1)
