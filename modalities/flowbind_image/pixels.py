"""Pictures as they are: a latent is a square picture's pixels, and nothing is learnt."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import Codec
from flowbind_image.mask import known_cells
from flowbind_image.square import to_square


class Pixels(Codec):
    """Square RGB pictures as latents of shape (3, size, size), with numbers in [-1, 1].

    A picture of another size is resized, bilinear with antialiasing, whatever its proportions:
    nothing is cropped, and what is not square is stretched.

    With `low`, latents are what is left of a picture in low resolution, the start of
    super-resolution: it is averaged over areas to low x low pixels of 8 bits, and brought back to
    the size by bicubic interpolation. A file of low x low pixels, so, is encoded as the picture
    that it was made of. Decoding gives what a latent shows, blurred or not.

    Args:
        size: Pixels a side.
        low: Pixels a side of the low resolution, at most `size`; None for the picture as it is.
    """

    # Exact: the 256 levels lie 16 times as far apart as its numbers do.
    dtype = torch.float16

    def __init__(self, size: int = 64, low: int | None = None) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, not {size}")
        if low is not None and not 1 <= low <= size:
            raise ValueError(f"low must be 1 to {size} pixels, the size, not {low}")

        self.size = size
        self.low = low
        self.shape = (3, size, size)

    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Numbers in [-1, 1], float16 with shape (B, 3, size, size), of B uint8 pictures."""
        pictures = torch.stack([self._sized(raw) for raw in raws])
        latents = pictures.to(self.device) / 127.5 - 1
        return latents.to(self.dtype)

    def known(self, masks: Sequence[Tensor]) -> Tensor:
        """Pixels that are known; resized ones where all that they are made of are."""
        return known_cells(masks, self.shape, reach=0 if self.low is None else 2)

    def _sized(self, raw: Tensor) -> Tensor:
        """A picture, uint8 of shape (3, H, W), as levels in [0, 255], with (3, size, size)."""
        if self.low is None:
            return to_square(raw, self.size)

        # In float64, where nothing depends on the order in which an area is added up.
        exact = raw[None].double()
        small = F.interpolate(exact, size=(self.low, self.low), mode="area").round()
        large = F.interpolate(small, size=(self.size, self.size), mode="bicubic")
        return large[0].clamp(0, 255).float()

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """B pictures, uint8 of shape (3, size, size); what is beyond [-1, 1] is cut."""
        levels = (latents.float().clamp(-1, 1) + 1) * 127.5
        return list(levels.round().byte().cpu())

    def errors(self, raws: Sequence[Any], again: Sequence[Any]) -> Tensor:
        """The mean absolute difference in levels of 8 bits, with shape (B,)."""
        difference = self.encode(again).float() - self.encode(raws).float()
        return 127.5 * difference.abs().flatten(1).mean(1)
