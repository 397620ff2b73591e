"""The small codec of images that keeps places: 64 x 64 pictures to a grid of 8 x 8 cells."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowbind.codec import NeuralCodec
from flowbind_image.colour import rgb
from flowbind_image.grid_autoencoder import GridAutoencoder
from flowbind_image.mask import known_cells
from flowbind_image.small import SIZE
from flowbind_image.square import to_square


class GridImage(NeuralCodec):
    """A convolutional autoencoder of 64 x 64 pictures, with latents of shape (4, 8, 8).

    Each cell of a latent is about 8 x 8 pixels of the picture. In training, noise was laid on the
    latents, so that latents with small errors, as a flow makes them, decode well. A picture of
    another size is resized to 64 x 64 first, bilinear with antialiasing, whatever its proportions:
    nothing is cropped, and what is not square is stretched.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shape = (4, 8, 8)
    shipped = Path(__file__).parent / "weights" / "grid.safetensors"

    def build(self) -> GridAutoencoder:
        return GridAutoencoder(channels=self.shape[0])

    def known(self, masks: Sequence[Tensor]) -> Tensor:
        """Cells that see known pixels alone; a cell sees its neighbours' as well."""
        return known_cells(masks, self.shape, reach=1)

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """Resizes B pictures, uint8 of shape (3, H, W): uint8, with shape (B, 3, 64, 64)."""
        return torch.stack([to_square(raw, SIZE) for raw in raws])

    def finish(self, outputs: Tensor) -> list[Tensor]:
        """Turns B pictures in opponent colours, with shape (B, 3, 64, 64), into uint8 RGB."""
        return list(rgb(outputs).cpu())
