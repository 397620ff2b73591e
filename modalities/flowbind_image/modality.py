"""The modality of images: a raw sample is a uint8 tensor of RGB values, with shape (3, H, W)."""

import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from flowbind.atomic import replacing
from flowbind.modality import Modality
from flowbind.regular import open_regular
from flowbind_image.small import SmallImage

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


class Image(Modality):
    """Pictures of any size."""

    suffixes = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
    default_codec = SmallImage

    def read(self, source: str | Path) -> Tensor:
        """Reads a picture as RGB in [0, 255], with shape (3, H, W).

        It is turned upright by its EXIF orientation, transparency is laid on white, grey and palettes become RGB, 16
        bits become 8, and of an animation the first frame is taken.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, of another format or larger than Pillow's limit on pixels.
        """
        with open_regular(source) as file, warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)  # Pillow refuses at twice its limit only
            try:
                return torch.from_numpy(_rgb(file)).permute(2, 0, 1).contiguous()
            except PIL.UnidentifiedImageError:
                raise ValueError(f"{source}: not a picture; allowed: PNG, JPEG, WebP, BMP") from None
            except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
                limit = PIL.Image.MAX_IMAGE_PIXELS
                raise ValueError(f"{source}: more than {limit} pixels; make the picture smaller") from None
            except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged data
                raise ValueError(
                    f"{source}: a damaged picture ({(str(error) or type(error).__name__).splitlines()[0]})"
                ) from None

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes RGB in [0, 255], with shape (3, H, W), as a PNG."""
        with replacing(path) as partial:
            self.preview(raw).save(partial, format="PNG")

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """The picture itself."""
        return PIL.Image.fromarray(raw.permute(1, 2, 0).contiguous().numpy(force=True))


def _rgb(file) -> np.ndarray:
    with PIL.Image.open(file, formats=FORMATS) as checked:
        checked.verify()  # checksums, which decoding alone ignores
    file.seek(0)
    with PIL.Image.open(file, formats=FORMATS) as picture:
        upright = PIL.ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey, which Pillow would clip rather than scale
        upright = PIL.Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    if upright.has_transparency_data:
        white = PIL.Image.new("RGBA", upright.size, "white")
        upright = PIL.Image.alpha_composite(white, upright.convert("RGBA"))
    return np.array(upright.convert("RGB"))
