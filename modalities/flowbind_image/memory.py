"""The memory that reading a picture takes, from its header alone.

So a bomb is refused before it is decoded.
"""

import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import PIL.Image

from flowbind.turns import weigh

MEMORY = 448 * 2**20  # bytes that reading a picture may take
# Bytes a pixel of formats that need no more than Pillow's own picture and a copy.
OTHERS = 4 + 8
BITS = 258  # tag of TIFF: bits of each channel
SAMPLES = 277  # tag of TIFF: number of channels
PNG = b"\x89PNG\r\n\x1a\n"


class TooLarge(Exception):
    """A picture whose reading would take more than `MEMORY`."""


def check(file: BinaryIO, formats: tuple[str, ...]) -> None:
    """Looks at a picture before anything is decoded.

    Checks the size that its header has, and checksums, which decoding ignores.

    Raises:
        TooLarge: it would take more than `MEMORY`.
        PIL.Image.DecompressionBombError: it has more pixels than Pillow's limit, where Pillow
        itself would only warn.
        Exception: it is damaged, as Pillow has it.
    """
    # Pillow decodes icons when it opens them.
    for width, height in _icons(file):
        _refuse_large("ICO", OTHERS, width, height)

    with warnings.catch_warnings():
        # Refused below, in one line.
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        picture = PIL.Image.open(file, formats=formats)
    with picture:
        width, height = picture.size
        _refuse_large(str(picture.format), bytes_a_pixel(picture), width, height)
        picture.verify()

    file.seek(0)


def bytes_a_pixel(picture: PIL.Image.Image) -> int:
    """Bytes a pixel that reading a picture takes at most, by its format.

    Up to 4 that Pillow keeps, and what is returned or its decoder has. A JPEG may come in several
    scans, for which all its coefficients are in memory; a TIFF in a single strip, which is unpacked
    whole; JPEG 2000 has 32 bits a channel; WebP has three canvases, AVIF and HEIC have frames of up
    to 16 bits.
    """
    channels = len(picture.getbands())
    match picture.format:
        case "PNG" | "BMP":
            return 4 + 3
        case "JPEG":
            return 4 + 2 * channels
        case "TIFF":
            from PIL.TiffImagePlugin import TiffImageFile

            assert isinstance(picture, TiffImageFile)
            tags = picture.tag_v2
            bits = max(tags.get(BITS, (1,)))
            bits *= tags.get(SAMPLES, 1)
            return 4 + max(4, bits // 8)
        case "JPEG2000":
            return 4 + 2 + 4 * channels
        case "WEBP":
            return 4 + 12
        case "AVIF" | "HEIF":
            return 4 + 16

    return OTHERS


def _icons(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Width and height of every picture in a file of icons.

    Its own table of them need not be true.
    """
    head = file.read(6).ljust(6, b"\1")
    kind, count = struct.unpack("<4sH", head)
    table = b""
    if kind == b"\0\0\1\0":
        table = file.read(16 * count)
    for place in range(0, len(table) - 15, 16):
        (offset,) = struct.unpack_from("<I", table, place + 12)
        file.seek(offset)
        head = file.read(24).ljust(24, b"\0")
        if head.startswith(PNG):
            width, height = struct.unpack_from(">II", head, 16)
        else:
            width, height = struct.unpack_from("<ii", head, 4)
        yield abs(width), abs(height)

    file.seek(0)


def _refuse_large(
    kind: str,
    pixel: int,
    width: int,
    height: int,
) -> None:
    limit = PIL.Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise PIL.Image.DecompressionBombError

    needed = pixel * width * height
    weigh(needed)
    if needed > MEMORY:
        raise TooLarge(
            f"{width} x {height} pixels of a {kind} take {needed >> 20} MiB to read, "
            f"allowed are {MEMORY >> 20}"
        )
