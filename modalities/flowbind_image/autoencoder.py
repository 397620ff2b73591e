"""A convolutional autoencoder of square pictures, 64 pixels a side.

Strided convolutions take a picture to maps of 16, 8 and 4 pixels a side, and a linear layer takes
the last map to the latent; the decoder goes the way back, and through 32, which sharpens edges.
Group normalisation makes a picture's latent independent of the rest of its batch.
"""

from torch import Tensor, nn

from flowbind_image.colour import opponent

GROUPS = 8


class Autoencoder(nn.Module):
    """RGB pictures to latents, and back to opponent colours.

    Args:
        features: Features of a latent, D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *_smaller(3, 64, times=4),
            *_smaller(64, 96, times=2),
            *_smaller(96, 128, times=2),
            nn.Flatten(),
            nn.Linear(128 * 4 * 4, features),
        )

        self.decoder = nn.Sequential(
            nn.Linear(features, 128 * 4 * 4),
            nn.Unflatten(1, (128, 4, 4)),
            *_activation(128),
            *_doubled(128, 128),
            *_doubled(128, 96),
            *_doubled(96, 40),
            nn.ConvTranspose2d(
                40,
                3,
                kernel_size=4,
                stride=2,
                padding=1,
            ),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents, with shape (B, D), of pictures, uint8 with shape (B, 3, 64, 64)."""
        colours = opponent(pictures)
        return self.encoder(colours).to(colours.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Opponent colours, with shape (B, 3, 64, 64), of latents, with shape (B, D)."""
        return self.decoder(latents).to(latents.dtype)


def _activation(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, channels), nn.SiLU()]


def _smaller(channels: int, out: int, times: int) -> list[nn.Module]:
    """Layers to maps that are smaller by some times."""
    layer = nn.Conv2d(
        channels,
        out,
        kernel_size=2 * times,
        stride=times,
        padding=times // 2,
    )
    return [layer, *_activation(out)]


def _doubled(channels: int, out: int) -> list[nn.Module]:
    """Layers to maps of twice the size."""
    layer = nn.ConvTranspose2d(
        channels,
        out,
        kernel_size=4,
        stride=2,
        padding=1,
    )
    return [layer, *_activation(out)]
