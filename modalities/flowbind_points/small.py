"""The small codec of point clouds: 1,024 coloured points to a latent of 64 features and back.

Encoder: a cloud is moved to its middle and scaled to radius 1; then it is known by the averages
over its points of fixed random waves (samples of its characteristic function), beside its middle,
mean colour and radius. Averages do not depend on the order of the points. A small MLP turns them
into the latent. Decoder: an MLP chooses one of the learned clouds, and how it is turned, scaled,
moved and tinted.

To choose, not to mix, keeps edges: a turned cube is no weighted sum of cubes, and a decoder that
is smooth in the latent can only show the average of cubes, a barrel, wherever turning one by 90
degrees leads back to the same points in other places.

Shapes: B clouds, n points, N = 1,024, M = 64 learned clouds, latent width D = 64.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.codec import NeuralCodec
from flowbind_points.chamfer import chamfer
from flowbind_points.unit_sphere import thin

POINTS = 1024
LATENT = 64
WAVES = 256  # fixed random waves; the last quarter also runs through colour
# Standard deviations of the radians of each quarter of the waves, for each radius along an axis or
# each unit of colour. The faster waves see how a thing with edges is turned.
FREQUENCIES = 1.5, 3.0, 3.0, 1.5
LEARNED = 64  # clouds to choose from
WIDTH = 256  # of the MLPs
SMALLEST = 1e-6  # radius of a cloud; below it a cloud counts as one point
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
    # 1 took every k-th point of a file; 2 added learned clouds up.
    version = 3
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
        place = clouds[..., :3] / self.scale
        colour = clouds[..., 3:]
        return torch.cat([place, colour], dim=2)

    def errors(self, raws: Sequence[Tensor], again: Sequence[Tensor]) -> Tensor:
        """The Chamfer distance of the clouds' places, in units of `scale`, with shape (B,)."""
        before = self.prepare(raws)
        after = self.prepare(again)
        return chamfer(before[..., :3], after[..., :3])

    def finish(self, outputs: Tensor) -> list[Tensor]:
        place = outputs[..., :3] * self.scale
        colour = outputs[..., 3:].clamp(0, 1)
        clouds = torch.cat([place, colour], dim=2)
        return list(clouds.cpu())


class Reading(NamedTuple):
    """What B latents say: which learned cloud they choose, and how each of them would be shown.

    Attributes:
        choice: Logits of the M learned clouds, with shape (B, M).
        frame: Matrices that turn and scale rows x, y, z of each, with shape (B, M, 3, 3).
        middle: Places of the middles, with shape (B, 1, 3).
        tint: Colours, to which those of the learned cloud are added, with shape (B, 1, 3).
    """

    choice: Tensor
    frame: Tensor
    middle: Tensor
    tint: Tensor


class CloudNet(nn.Module):
    """The network: clouds to latents, and back to clouds."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Linear(6, WAVES).requires_grad_(False)
        self.summary = nn.Sequential(
            nn.BatchNorm1d(WAVES + 7),
            *_layers(WAVES + 7),
            nn.Linear(WIDTH, LATENT),
        )
        # Every feature has the same spread.
        self.standard = nn.BatchNorm1d(LATENT, affine=False)

        self.trunk = nn.Sequential(*_layers(LATENT))
        self.choice = nn.Linear(WIDTH, LEARNED)
        self.turn = nn.Linear(WIDTH, 6 * LEARNED)
        self.rest = nn.Linear(WIDTH, 7)  # middle, tint, logarithm of the size
        self.learned = nn.Parameter(torch.empty(LEARNED, POINTS, 6))

        quarters = self.waves.weight.chunk(4)
        for quarter, frequency in zip(quarters, FREQUENCIES, strict=True):
            nn.init.normal_(quarter, std=frequency)
        nn.init.zeros_(self.waves.weight[: WAVES * 3 // 4, 3:])
        nn.init.uniform_(self.waves.bias, 0, 2 * torch.pi)
        nn.init.normal_(self.turn.weight, std=0.02)
        nn.init.normal_(self.rest.weight, std=0.02)
        nn.init.normal_(self.learned, std=0.5)

    @torch.no_grad()
    def begin(self, clouds: Tensor) -> None:
        """Makes clouds, with shape (B, N, 6), the first of what is learned; few are taken again."""
        mean = clouds.mean(1, keepdim=True)
        place, colour = (clouds - mean).split(3, dim=2)
        radius = _radius(place)
        scaled = place / radius[:, None, None]
        unit = torch.cat([scaled, colour], dim=2)

        number = torch.arange(LEARNED, device=clouds.device) % len(clouds)
        self.learned.copy_(unit[number])
        typical = [mean.mean((0, 1)), radius.log().mean(0, keepdim=True)]
        self.rest.bias.copy_(torch.cat(typical))

    def encode(self, clouds: Tensor) -> Tensor:
        """Latents, with shape (B, D), of clouds, with shape (B, n, 6)."""
        moments = [self._moments(chunk) for chunk in clouds.split(CHUNK)]
        summary = self.summary(torch.cat(moments))
        return self.standard(summary)

    def decode(self, latents: Tensor) -> Tensor:
        """Clouds, with shape (B, N, 6), of latents, with shape (B, D)."""
        reading = self.read(latents)
        return self.show(reading, reading.choice.argmax(1))

    def read(self, latents: Tensor) -> Reading:
        """What latents, with shape (B, D), say."""
        features = self.trunk(latents)
        rest = self.rest(features)[:, None]
        middle, tint, size = rest.split((3, 3, 1), dim=2)

        # Two directions give the turn (Zhou et al., 2019), which so has no leap of its own.
        directions = self.turn(features).unflatten(1, (LEARNED, 2, 3))
        first, second = directions.unbind(2)
        first = first + first.new_tensor([1, 0, 0])
        x = F.normalize(first, dim=2)
        second = second + second.new_tensor([0, 1, 0])
        along = (x * second).sum(2, keepdim=True)
        y = F.normalize(second - along * x, dim=2)
        z = torch.linalg.cross(x, y)
        turn = torch.stack([x, y, z], dim=2)

        frame = turn * size.exp()[..., None]
        return Reading(self.choice(features), frame, middle, tint)

    def show(self, reading: Reading, chosen: Tensor) -> Tensor:
        """The learned clouds with these numbers, (B,), as they are read: with shape (B, N, 6)."""
        cloud = self.learned[chosen]
        number = torch.arange(len(chosen))
        frame = reading.frame[number, chosen]
        place = cloud[..., :3] @ frame + reading.middle
        colour = cloud[..., 3:] + reading.tint
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
        radius = _radius(place)[:, None]

        scaled = place / radius[..., None]
        points = torch.cat([scaled, clouds[..., 3:]], dim=2)
        averages = self.waves(points).sin_().mean(1)
        return torch.cat([averages, middle[:, 0], radius.log()], dim=1)


def _radius(place: Tensor) -> Tensor:
    """The root mean square distance from the middle, (B, n, 3) -> (B,)."""
    squares = place.square().sum(2)
    radius = squares.mean(1).sqrt()
    return radius.clamp(min=SMALLEST)


def _layers(features: int) -> list[nn.Module]:
    """Two layers of an MLP, (B, features) -> (B, 256)."""
    return [
        nn.Linear(features, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
    ]
