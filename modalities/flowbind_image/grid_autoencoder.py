"""A convolutional autoencoder of square pictures whose latent is a grid, eight pixels a cell.

Strided convolutions take a picture to cells of 8 x 8 pixels, residual blocks look around each, and
a last layer keeps a few numbers a cell. The decoder goes the way back; convolutions that widen and
then lay their channels out as pixels (Shi et al. 2016, arXiv 1609.05158) make its maps larger.
Group normalisation makes a picture's latent independent of the rest of its batch.
"""

from torch import Tensor, nn

from flowbind_image.colour import opponent

GROUPS = 8
CELL = 8  # pixels a side
# Latents lie within. Without it plain ground is near 0 and solids far out: with cells of 4 x 4 pixels
# channels had a kurtosis of 7 to 10 after 300 steps, with it 3 to 6; a Gaussian has 3.
BOUND = 3.0
WIDTHS = (
    88,
    64,
    32,
)  # channels of maps of cells, of cells' quarters and of half the picture's size


class GridAutoencoder(nn.Module):
    """RGB pictures to latents, and back to opponent colours.

    Args:
        channels: Numbers of a cell, C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide, middle, fine = WIDTHS
        self.encoder = nn.Sequential(
            _smaller(3, middle, times=4),
            _Residual(middle),
            *_activation(middle),
            _smaller(middle, wide, times=2),
            _Residual(wide),
            *_activation(wide),
            nn.Conv2d(wide, channels, kernel_size=1),
        )

        self.decoder = nn.Sequential(
            _convolution(channels, wide),
            _Residual(wide),
            _Residual(wide),
            *_doubled(wide, middle),
            _Residual(middle),
            *_doubled(middle, fine),
            _Residual(fine),
            *_activation(fine),
            *_doubled(fine, 3),
        )

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents, with shape (B, C, H/8, W/8), of pictures, uint8 with shape (B, 3, H, W)."""
        colours = opponent(pictures)
        latents = self.encoder(colours).to(colours.dtype)
        return BOUND * (latents / BOUND).tanh()

    def decode(self, latents: Tensor) -> Tensor:
        """Opponent colours, with shape (B, 3, H, W), of latents, with shape (B, C, H/8, W/8)."""
        return self.decoder(latents).to(latents.dtype)


class _Residual(nn.Module):
    """Maps, and what two convolutions add to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *_activation(channels),
            _convolution(channels, channels),
            *_activation(channels),
            _convolution(channels, channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.change(maps)


def _activation(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, channels), nn.SiLU()]


def _convolution(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, padding=1)


def _smaller(channels: int, out: int, times: int) -> nn.Conv2d:
    """A layer to maps that are smaller by some times."""
    return nn.Conv2d(
        channels,
        out,
        kernel_size=2 * times,
        stride=times,
        padding=times // 2,
    )


def _doubled(channels: int, out: int) -> list[nn.Module]:
    """Layers to maps of twice the size."""
    return [_convolution(channels, 4 * out), nn.PixelShuffle(2)]
