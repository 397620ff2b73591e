"""Pictures of any size and proportions as squares of one size."""

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
