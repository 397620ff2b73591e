"""Depth maps in files: PNG of 16 bits, in a unit that the data set decides, and numpy's arrays."""

import io
from pathlib import Path

import numpy as np
import PIL.Image

from flowbind.errors import first_line
from flowbind.files import replacing
from flowbind.npy import read_header, read_numbers
from flowbind.turns import weigh

LARGEST = 2**28  # bytes of a file
MOST = 2**24  # pixels of a map
WEIGHT = 24  # bytes of memory that a pixel takes at most: three float64
HIGHEST = 2**16 - 1  # number in a PNG
PNG = b"\x89PNG\r\n\x1a\n"
NUMPY = b"\x93NUMPY"


def read_map(content: bytes, scale: float) -> np.ndarray:
    """Depths in metres, of any shape, of a file's content; 0 where there is none.

    It says itself what it is: PNG of 16 bits, or an array of floats in metres.

    Args:
        content: Content of the file.
        scale: Number in a PNG that stands for one metre.

    Raises:
        ValueError: it is damaged, or neither of these; one line, without the file's name.
    """
    if content.startswith(PNG):
        return _read_png(content) / np.float32(scale)
    if content.startswith(NUMPY):
        return _read_array(content)
    raise ValueError("neither PNG nor .npy; allowed: PNG of 16 bits, .npy of floats")


def write_png(depth: np.ndarray, path: Path, scale: float) -> int:
    """Writes depths in metres, with shape (H, W), as a PNG of 16 bits.

    A depth that rounds to 0, which would stand for none, is written as 1.

    Returns:
        Number of pixels whose depth is beyond the PNG's range; the highest number stands for it.
    """
    numbers = np.rint(depth.astype(np.float64) * scale)
    beyond = numbers > HIGHEST
    lowest = np.where(depth > 0, 1, 0)
    numbers = np.clip(numbers, lowest, HIGHEST).astype(np.uint16)
    with replacing(path) as partial:
        PIL.Image.fromarray(numbers).save(partial, format="PNG")
    return int(beyond.sum())


def _read_png(content: bytes) -> np.ndarray:
    """The numbers of a PNG of one channel of 16 bits, float32 with shape (H, W)."""
    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            width, height = picture.size
            mode = picture.mode
            picture.verify()  # checksums, which decoding ignores
    except Exception as error:
        # Pillow's decoders raise a dozen kinds on damaged data.
        raise ValueError(f"a damaged PNG ({first_line(error)})") from None

    if not mode.startswith("I"):
        raise ValueError(
            f"a PNG of the mode {mode}, a picture; allowed: grey of 16 bits, whose numbers are "
            "depths"
        )
    _check_size(width * height)

    try:
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            return np.asarray(picture).astype(np.float32)
    except Exception as error:
        raise ValueError(f"a damaged PNG ({first_line(error)})") from None


def _read_array(content: bytes) -> np.ndarray:
    """An array of floats; what its header promises has to be there."""
    try:
        header = read_header(content)
    except ValueError as error:
        raise ValueError(f"a damaged array ({error})") from None

    if header.dtype.kind != "f":
        raise ValueError(
            f"an array of {header.dtype}, whose unit nothing tells; allowed: floats, in metres"
        )

    depth = read_numbers(content, header)
    _check_size(depth.size)
    return np.where(np.isfinite(depth), depth, 0)


def _check_size(pixels: int) -> None:
    """Refuses a map of too many pixels, before it is decoded."""
    if pixels > MOST:
        raise ValueError(
            f"a map of {pixels} pixels, allowed are {MOST}; make it smaller"
        )
    weigh(WEIGHT * pixels)
