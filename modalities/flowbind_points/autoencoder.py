"""The codec of point clouds at full size: 2,048 points to a latent of 768 features and back.

Encoder: PointNet (Qi et al., 2017). The same small network sees every point, the largest value of
each feature over all points describes the cloud, and an MLP turns that into the latent; to the
network neither the order of the points matters nor how often one is there. Decoder: an MLP gives
all points at once (Achlioptas et al., 2018).

Where a cloud lies and how large it is are no part of its shape: they are normalised away, and do
not come back.

Shapes: B clouds, n points of a cloud, N points of a decoded one, C numbers a point (3, or 6 with
colours), latent width D.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbind.codec import NeuralCodec
from flowbind_points.chamfer import chamfer
from flowbind_points.cloud import GREY
from flowbind_points.unit_sphere import thin, to_unit_sphere

CHUNK = 16  # clouds whose points' features are held at once


class PointAutoencoder(NeuralCodec):
    """Codec of the shapes of point clouds, without weights.

    It is trained by recipes/codecs/point_autoencoder.yaml. Of a cloud N points are taken, a fixed
    random choice (in one with fewer, points repeat evenly), moved to their mean and scaled to the
    unit sphere. A decoded cloud has N points in that place and size; they are mid-grey without
    colours.

    Args:
        points: Points of a cloud, N.
        latent: Features of a latent, D.
        width: Features of a point before the largest are taken, a multiple of 8; the layers below
            have 1/2, 1/4 and 1/8.
        colours: Whether colours are encoded as well.
        weights: Safetensors file, as the recipe exports it.
    """

    version = 2  # 1 took every k-th point of a file

    def __init__(
        self,
        points: int = 2048,
        latent: int = 768,
        width: int = 1024,
        colours: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__(weights)
        if min(points, latent, width) < 1 or width % 8:
            raise ValueError(
                f"points, latent and width are {points}, {latent} and {width}; "
                "all are above 0, and width is a multiple of 8"
            )

        self.points = points
        self.latent = latent
        self.width = width
        self.colours = colours
        self.shape = (latent,)

    @property
    def file(self) -> Path:
        """The safetensors file of the weights.

        Raises:
            ValueError: none was given.
        """
        if self.weights is None:
            raise ValueError(
                "PointAutoencoder comes without weights: "
                "train them with recipes/codecs/point_autoencoder.yaml, "
                "then give that file as its argument 'weights'"
            )

        return Path(self.weights)

    def build(self) -> nn.Module:
        return CloudAutoencoder(
            self.points,
            6 if self.colours else 3,
            self.width,
            self.latent,
        )

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        clouds = torch.stack([thin(raw, self.points) for raw in raws])
        return to_unit_sphere(clouds[..., : 6 if self.colours else 3])

    def errors(self, raws: Sequence[Tensor], again: Sequence[Tensor]) -> Tensor:
        """The Chamfer distance of the clouds' places in the unit sphere, with shape (B,)."""
        return chamfer(self.prepare(raws)[..., :3], self.prepare(again)[..., :3])

    def finish(self, outputs: Tensor) -> list[Tensor]:
        place = outputs[..., :3]
        colour = outputs[..., 3:].clamp(0, 1)
        if not self.colours:
            colour = torch.full_like(place, GREY)

        return list(torch.cat([place, colour], dim=2).cpu())


class CloudAutoencoder(nn.Module):
    """The network: clouds to latents, and back to clouds.

    Args:
        points: Points of a decoded cloud, N.
        channels: Numbers of a point, C.
        width: Features of a point before the largest are taken.
        latent: Features of a latent, D.
    """

    def __init__(
        self,
        points: int,
        channels: int,
        width: int,
        latent: int,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for below, above in pairwise(
            (channels, width // 8, width // 4, width // 2, width)
        ):
            layers += [nn.Linear(below, above), nn.LayerNorm(above), nn.ReLU()]

        self.point = nn.Sequential(*layers)
        self.summary = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, width),
            nn.GELU(),
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, points * channels),
            nn.Unflatten(1, (points, channels)),
        )
        # Starts as a cloud, not as one point.
        last = self.decoder[4]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.bias, std=0.5)

    def encode(self, clouds: Tensor) -> Tensor:
        """Latents, with shape (B, D), of clouds, with shape (B, n, C)."""
        largest = [self.point(chunk).amax(1) for chunk in clouds.split(CHUNK)]
        return self.summary(torch.cat(largest))

    def decode(self, latents: Tensor) -> Tensor:
        """Clouds, with shape (B, N, C), of latents, with shape (B, D)."""
        return self.decoder(latents)
