"""A convolutional autoencoder of square pictures, 64 pixels a side.

Strided convolutions take a picture to maps of 16, 8 and 4 pixels a side, and a linear layer takes the last map to the
latent; the decoder goes the way back, and through 32, which sharpens edges. Group normalisation makes a picture's
latent independent of the rest of its batch.
"""

from torch import Tensor, nn

from flowbind_image.colour import opponent

GROUPS = 8


class Autoencoder(nn.Module):
    """RGB pictures, uint8 with shape (B, 3, 64, 64), to latents, with shape (B, D), and back to opponent colours.

    Args:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 64, kernel_size=8, stride=4, padding=2), nn.GroupNorm(GROUPS, 64), nn.SiLU()),
            *(nn.Conv2d(64, 96, kernel_size=4, stride=2, padding=1), nn.GroupNorm(GROUPS, 96), nn.SiLU()),
            *(nn.Conv2d(96, 128, kernel_size=4, stride=2, padding=1), nn.GroupNorm(GROUPS, 128), nn.SiLU()),
            *(nn.Flatten(), nn.Linear(128 * 4 * 4, features)),
        )
        self.decoder = nn.Sequential(
            *(nn.Linear(features, 128 * 4 * 4), nn.Unflatten(1, (128, 4, 4)), nn.GroupNorm(GROUPS, 128), nn.SiLU()),
            *(nn.ConvTranspose2d(128, 96, kernel_size=4, stride=2, padding=1), nn.GroupNorm(GROUPS, 96), nn.SiLU()),
            *(nn.ConvTranspose2d(96, 64, kernel_size=4, stride=2, padding=1), nn.GroupNorm(GROUPS, 64), nn.SiLU()),
            *(nn.ConvTranspose2d(64, 24, kernel_size=4, stride=2, padding=1), nn.GroupNorm(GROUPS, 24), nn.SiLU()),
            nn.ConvTranspose2d(24, 3, kernel_size=4, stride=2, padding=1),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        colours = opponent(pictures)
        return self.encoder(colours).to(colours.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).to(latents.dtype)
