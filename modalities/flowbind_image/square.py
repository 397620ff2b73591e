"""Pictures of any size and proportions as squares of one size."""

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from torch import Tensor


def to_square(picture: Tensor, size: int) -> Tensor:
    """A picture, with shape (3, H, W), resized to (3, size, size), of the same dtype.

    Bilinear with antialiasing, whatever its proportions: nothing is cropped, and what is not square
    is stretched. A picture of this size is returned as it is.
    """
    if picture.shape[1:] == (size, size):
        return picture

    return F.interpolate(
        picture[None],
        size=(size, size),
        mode="bilinear",
        antialias=True,
    )[0]


def middle_square(picture: Tensor, size: int) -> Tensor:
    """The middle of a picture, uint8 of shape (3, size, size), as wide as its shorter side.

    Bicubic with antialiasing.
    """
    whole = PIL.Image.fromarray(picture.permute(1, 2, 0).numpy(force=True))
    square = PIL.ImageOps.fit(
        whole,
        (size, size),
        method=PIL.Image.Resampling.BICUBIC,
    )
    levels = torch.from_numpy(np.array(square))
    return levels.permute(2, 0, 1)
