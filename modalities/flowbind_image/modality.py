"""The modality of images: a raw sample is a uint8 tensor of RGB values, with shape (3, H, W)."""

from pathlib import Path
from typing import Any, BinaryIO

import PIL.Image
from torch import Tensor

from flowbind.errors import first_line
from flowbind.files import open_regular, replacing
from flowbind.libraries import Extra, absent, require
from flowbind.modality import Modality
from flowbind_image.judge import ImageJudge
from flowbind_image.mask import unknown_pixels
from flowbind_image.memory import TooLarge, check
from flowbind_image.picture import rgb_of_array, rgb_of_picture
from flowbind_image.small import SmallImage

# As Pillow names them. Nothing outside Pillow runs: EPS, which needs another program, is left out.
FORMATS: tuple[str, ...] = (
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "GIF",
    "TIFF",
    "BMP",
    "JPEG2000",
    "PPM",
    "ICO",
    "QOI",
)
FORMATS += ("PSD", "SGI", "DDS")
# Files that do not say what they are: the name has to.
UNMARKED = {
    ".tga": "TGA",
    ".dib": "DIB",
}
ALLOWED = "PNG, JPEG, WebP, AVIF, GIF, TIFF, BMP, JPEG 2000, PPM, TGA, ICO, QOI, PSD, SGI, DDS, HEIC"

HEIC = (".heic", ".heif")
# ISO/IEC 23008-12
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Image(Modality):
    """Pictures of any size, up to the memory that reading one takes."""

    suffixes = (
        *(
            ".png",
            ".jpg",
            ".jpeg",
            ".webp",
            ".bmp",
            ".jpe",
            ".jfif",
            ".avif",
            ".gif",
            ".tif",
        ),
        *(
            ".tiff",
            ".heic",
            ".heif",
            ".apng",
            ".jp2",
            ".j2k",
            ".jpx",
            ".ppm",
            ".pgm",
            ".pbm",
        ),
        *(".pnm", ".pfm", ".tga", ".ico", ".qoi", ".dib", ".psd", ".sgi", ".dds"),
    )
    default_codec = SmallImage
    default_judge = ImageJudge
    version = 2  # 1 did not apply colour profiles

    def missing(self, suffix: str) -> str:
        """The package that reads HEIC, if that is the suffix and it is not there or fails."""
        return absent("pi_heif", "HEIC", Extra("heic")) if suffix in HEIC else ""

    def read(self, source: str | Path) -> Tensor:
        """Reads a picture as RGB in [0, 255], with shape (3, H, W).

        It is turned upright by its EXIF orientation, a colour profile is applied, transparency is
        laid on white, grey and palettes become RGB, 16 bits become 8, floats lie in [0, 1], and of
        several pictures in a file the first is taken.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, of another format, larger than Pillow's limit on
                pixels, would take more than `MEMORY` to read, or is HEIC without the package that
                reads it.
        """
        with open_regular(source) as file:
            picture = _open(source, file)
            try:
                with picture:
                    return rgb_of_picture(picture, str(source))
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None

    def figures(self, source: str | Path) -> dict[str, float]:
        """Width and height in pixels, by the file's head, as it lies there."""
        with open_regular(source) as file, _open(source, file) as picture:
            width, height = picture.size
        return {"width": width, "height": height}

    def accept(self, raw: Any) -> Tensor:
        """RGB in [0, 255] as uint8, with shape (3, H, W), of a PIL picture or an array.

        An array is grey, grey and alpha, RGB or RGBA, (H, W), (H, W, channels) or (channels, H, W),
        of uint8, uint16, bool, or floats in [0, 1]; an axis of one picture in front is left out.
        Where both layouts are possible, channels come first in a tensor and last in other arrays. A
        PIL picture is treated as a file's.

        Raises:
            ValueError: it is something else, lies beyond its range, or cannot be decoded; one line.
        """
        if isinstance(raw, PIL.Image.Image):
            return rgb_of_picture(raw)
        return rgb_of_array(raw)

    def read_mask(self, source: Any, raw: Tensor) -> Tensor:
        """Where a mask is white, and the picture is to be made anew: bool with shape (H, W).

        Args:
            source: File of a picture, or whatever `accept` takes.
            raw: Picture that it lies over, with shape (3, H, W).

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is no picture, or not as large.
        """
        is_file = isinstance(source, str | Path)
        mask = self.read(source) if is_file else self.accept(source)
        return unknown_pixels(mask, raw)

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes RGB in [0, 255], with shape (3, H, W), as a PNG."""
        with replacing(path) as partial:
            self.preview(raw).save(partial, format="PNG")

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """The picture itself."""
        return PIL.Image.fromarray(raw.permute(1, 2, 0).contiguous().numpy(force=True))


def _open(source: str | Path, file: BinaryIO) -> PIL.Image.Image:
    """A picture, not decoded yet.

    Raises:
        ValueError: it is none, damaged, or too large; one line that names it.
    """
    formats = _formats(source, file)
    try:
        check(file, formats)
        return PIL.Image.open(file, formats=formats)
    except TooLarge as error:
        raise ValueError(f"{source}: {error}; make the picture smaller") from None
    except PIL.UnidentifiedImageError:
        raise ValueError(f"{source}: not a picture; allowed: {ALLOWED}") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        limit = PIL.Image.MAX_IMAGE_PIXELS
        raise ValueError(
            f"{source}: more than {limit} pixels; make the picture smaller"
        ) from None
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged data
        raise ValueError(f"{source}: a damaged picture ({first_line(error)})") from None


def _formats(source: str | Path, file: BinaryIO) -> tuple[str, ...]:
    """What Pillow may take a file for, as its suffix and its first bytes allow.

    Raises:
        ValueError: it is HEIC, and the package that reads it is missing.
    """
    head = file.read(12)
    file.seek(0)
    if head[4:8] != b"ftyp" or head[8:12] not in HEIC_BRANDS:
        unmarked = UNMARKED.get(Path(source).suffix.lower())
        return (*FORMATS, unmarked) if unmarked else FORMATS

    heif = require("pi_heif", f"{source}: HEIC", Extra("heic"))
    heif.register_heif_opener()
    return ("HEIF", *FORMATS)
