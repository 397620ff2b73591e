"""Colours that a mesh has in a picture.

Each corner of a triangle has a place in it; the pixels lie between them.

Shapes: f triangles, k points, a picture (h, w, 3).
"""

import io
import warnings
from collections.abc import Callable, Sequence

import numpy as np

from flowbind.errors import first_line
from flowbind.turns import weigh
from flowbind_points.surface import Paint, blend

PIXELS = 2**26  # of a picture, at most: 8192 a side
WEIGHT = 12  # bytes of memory that a pixel takes
# Whose decoders run no other program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TGA", "TIFF", "GIF")


def textured(
    where: np.ndarray,
    picture: Callable[[], np.ndarray],
    otherwise: Paint,
    factor: Sequence[float] | np.ndarray = (1, 1, 1),
) -> Paint:
    """The picture's pixel at each point. Beyond its edges a picture continues from the other edge.

    Args:
        where: Corners in the picture, with shape (f, 3, 2): to the right and up from its lower left
            corner, in widths and heights; not a number where a triangle has no place in it.
        picture: Function that gives its pixels, uint8 with shape (h, w, 3), when it is called; it
            raises ValueError where it cannot.
        otherwise: Paint of triangles that have no place in it.
        factor: Factors of red, green and blue.
    """

    def paint(face: np.ndarray, share: np.ndarray) -> np.ndarray:
        pixels = picture()
        height, width = pixels.shape[:2]
        places = blend(where[face], share)
        right, up = places.T
        is_placed = np.isfinite(right) & np.isfinite(up)
        column = _pixel(right[is_placed], width)
        from_bottom = _pixel(up[is_placed], height)
        row = height - 1 - from_bottom

        colour = otherwise(face, share)
        colour = np.array(colour, np.float64)
        light = pixels[row, column] / 255
        factors = np.asarray(factor, np.float64)
        colour[is_placed] = light * factors
        return colour

    return paint


def decode(content: bytes, name: str) -> np.ndarray:
    """The pixels of a picture's file, uint8 with shape (h, w, 3); transparency is left aside.

    Raises:
        ValueError: it is no picture, damaged or too large; says which, in part of a line.
    """
    import PIL.Image

    with warnings.catch_warnings():
        # Our limit is lower than the one that Pillow warns of.
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        try:
            file = io.BytesIO(content)
            with PIL.Image.open(file, formats=FORMATS) as picture:
                width, height = picture.size
                if width * height > PIXELS:
                    raise ValueError(f"{width} x {height} pixels, allowed are {PIXELS}")

                weigh(WEIGHT * width * height)
                if picture.mode.startswith("I"):  # 16-bit grey, which Pillow would clip
                    grey = np.asarray(picture) >> 8
                    grey = grey.astype(np.uint8)
                    return np.repeat(grey[..., None], 3, axis=2)
                return np.asarray(picture.convert("RGB"))
        except Exception as error:
            # Pillow's decoders raise a dozen kinds on damaged data.
            reason = first_line(error)[:80]
            raise ValueError(
                f"its picture '{name[:80]}' cannot be read ({reason})"
            ) from None


def _pixel(along: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` pixels lies at a place, in widths of the picture.

    Its far edge is its own, not the next one's.
    """
    is_within = (along >= 0) & (along <= 1)
    from_edge = along - np.floor(along)
    along = np.where(is_within, along, from_edge)
    pixel = (along * count).astype(np.int64)
    return np.minimum(pixel, count - 1)
