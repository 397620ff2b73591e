"""Colours that a mesh has in a picture: where each corner of a triangle lies in it, and the pixels
between.

Shapes: f triangles, k points, a picture (h, w, 3).
"""

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from flowbind.turns import weigh
from flowbind_points.surface import Paint, blend

PIXELS = 2**26  # of a picture, at most: 8192 a side
WEIGHT = 12  # bytes of memory that a pixel takes
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "TGA",
    "TIFF",
    "GIF",
)  # whose decoders run no other program


def textured(
    where: np.ndarray,
    picture: Callable[[], np.ndarray],
    otherwise: Paint,
    factor: Sequence[float] = (1, 1, 1),
) -> Paint:
    """The picture's pixel at each point. Beyond its edges a picture goes on from the other edge.

    Args:
        where: corners in the picture, with shape (f, 3, 2): to the right and up from its lower left
            corner, in widths and heights; not a number where a triangle has no place in it.
        picture: gives its pixels, uint8 with shape (h, w, 3), when it is called; it raises
            ValueError where it cannot.
        otherwise: paints triangles that have no place in it.
        factor: by which red, green and blue are multiplied.
    """

    def paint(face: np.ndarray, share: np.ndarray) -> np.ndarray:
        pixels = picture()
        height, width = pixels.shape[:2]
        right, up = blend(where[face], share).T
        placed = np.isfinite(right) & np.isfinite(up)
        colour = np.array(otherwise(face, share), np.float64)
        column = _pixel(right[placed], width)
        row = height - 1 - _pixel(up[placed], height)
        colour[placed] = pixels[row, column] / 255 * np.asarray(factor, np.float64)
        return colour

    return paint


def decode(content: bytes, name: str) -> np.ndarray:
    """The pixels of a picture's file, uint8 with shape (h, w, 3); transparency is left aside.

    Raises:
        ValueError: it is no picture, damaged or too large; says which, in part of a line.
    """
    import PIL.Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)  # ours is lower
        try:
            with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                if picture.width * picture.height > PIXELS:
                    raise ValueError(
                        f"{picture.width} x {picture.height} pixels, allowed are {PIXELS}"
                    )
                weigh(WEIGHT * picture.width * picture.height)
                if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
                    grey = (np.asarray(picture) >> 8).astype(np.uint8)
                    return np.repeat(grey[..., None], 3, axis=2)
                return np.asarray(picture.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged data
            reason = (str(error) or type(error).__name__).splitlines()[0][:80]
            raise ValueError(f"its picture '{name[:80]}' cannot be read ({reason})") from None


def _pixel(along: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` pixels lies at a place, in widths of the picture; its far edge is its own,
    not the next one's.
    """
    along = np.where((along >= 0) & (along <= 1), along, along - np.floor(along))
    return np.minimum((along * count).astype(np.int64), count - 1)
