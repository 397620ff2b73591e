"""Masks of pictures: which pixels are unknown, and so which cells of a latent are known."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

HALF = 128  # level from which on a mask's pixel is white


def unknown_pixels(mask: Tensor, picture: Tensor) -> Tensor:
    """Where a mask is white, bool with shape (H, W).

    Args:
        mask: The mask as a picture, uint8 with shape (3, H, W).
        picture: Picture that it lies over, with shape (3, H, W).

    Raises:
        ValueError: their sizes differ.
    """
    if mask.shape[1:] != picture.shape[1:]:
        height, width = mask.shape[1:]
        rows, columns = picture.shape[1:]
        raise ValueError(
            f"a mask of {width} x {height} pixels for a picture of {columns} x {rows}; make it as "
            "large, white where the picture is to be made anew and black elsewhere"
        )
    return mask.float().mean(0) >= HALF


def known_cells(
    masks: Sequence[Tensor],
    shape: tuple[int, ...],
    reach: int = 0,
) -> Tensor:
    """Which numbers of grids see known pixels alone, bool with shape (B, C, h, w).

    Args:
        masks: Unknown pixels of B pictures, bool with shape (H, W) each, of any size.
        shape: Shape (C, h, w) of a grid, which is laid over the whole picture.
        reach: Cells beyond its own whose pixels a cell sees, in each direction.
    """
    channels, *sides = shape
    grids = []
    for mask in masks:
        cells = F.adaptive_max_pool2d(mask[None].float(), sides)
        cells = F.max_pool2d(cells, 2 * reach + 1, stride=1, padding=reach)
        grids.append((cells < 0.5).expand(channels, -1, -1))
    return torch.stack(grids)
