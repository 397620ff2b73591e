"""The small codec of images: 64 x 64 RGB pictures to 64 numbers and back."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowbind.codec import NeuralCodec
from flowbind_image.autoencoder import Autoencoder
from flowbind_image.colour import rgb
from flowbind_image.square import to_square

SIZE = 64  # pixels a side


class SmallImage(NeuralCodec):
    """A convolutional autoencoder of 64 x 64 pictures, with latents of shape (64,).

    A picture of another size is resized to 64 x 64 first, bilinear with antialiasing, whatever its
    proportions: nothing is cropped, and what is not square is stretched.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shape = (64,)
    shipped = Path(__file__).parent / "weights" / "small.safetensors"

    def build(self) -> Autoencoder:
        return Autoencoder(*self.shape)

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """Resizes B pictures, uint8 of shape (3, H, W): uint8, with shape (B, 3, 64, 64)."""
        return torch.stack([to_square(raw, SIZE) for raw in raws])

    def finish(self, outputs: Tensor) -> list[Tensor]:
        """Turns B pictures in opponent colours, with shape (B, 3, 64, 64), into uint8 RGB."""
        return list(rgb(outputs).cpu())
