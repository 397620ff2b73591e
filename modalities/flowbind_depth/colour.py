"""Depth in colours."""

import numpy as np
import PIL.Image

MAP = (
    "inferno"  # of matplotlib: even to the eye, from black over red to a bright yellow
)
GREY = (128, 128, 128)  # no depth


def colour(
    depth: np.ndarray,
    near: float | None,
    far: float | None,
) -> PIL.Image.Image:
    """A map as a picture of its size: near is bright and warm, far is dark, none is grey.

    Equal ratios of depth are equal steps of colour.

    Args:
        depth: Depths in metres, with shape (H, W), 0 where there is none.
        near: Depth of the brightest colour; the least of the map if None.
        far: Depth of the darkest colour; the greatest of the map if None.
    """
    from matplotlib import colormaps

    is_there = depth > 0
    logs = np.log(depth, where=is_there, out=np.zeros_like(depth))
    present = logs[is_there]
    first = present.min() if near is None else np.log(near)
    last = present.max() if far is None else np.log(far)

    # A map of one depth alone is all near.
    width = max(last - first, 1e-6)
    share = np.clip((logs - first) / width, 0, 1)
    pixels = colormaps[MAP](1 - share, bytes=True)[..., :3]
    pixels = np.where(is_there[..., None], pixels, np.array(GREY, np.uint8))
    return PIL.Image.fromarray(pixels)
