"""Pictures as people have them, of any mode, layout and range, as uint8 RGB.

The dtype gives the range, and nothing else: uint8 and bool are what they are, uint16 goes to 65535,
and floats lie in [0, 1]. Other integers give none. Transparency is laid on white.
"""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import torch
from torch import Tensor

from flowbind.arrays import as_tensor, describe
from flowbind.errors import first_line
from flowbind_image.profile import Convert, to_srgb

CHANNELS = range(1, 5)  # grey, grey and alpha, RGB, RGBA
ALLOWED = (
    "a PIL picture, or an array of the shape (H, W), (H, W, channels) or (channels, H, W), "
    "1 to 4 channels (grey, grey and alpha, RGB, RGBA), of uint8, uint16, bool, or floats in [0, 1]"
)
WHITE_IS_ZERO = 0  # of TIFF's tag 262
BITS = 258  # tag of TIFF
PHOTOMETRIC = 262  # tag of TIFF
ORIENTATION = 274  # tag of EXIF
# Orientations whose rows are the file's columns.
TURNED = (5, 6, 7, 8)
# Axes along which an orientation is mirrored, after it is turned.
MIRRORED = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}
TILE = 1024  # pixels, width and height of what is converted at a time


def rgb_of_picture(picture: PIL.Image.Image, name: str = "a picture") -> Tensor:
    """A PIL picture of any mode, upright by its EXIF orientation, as RGB: uint8 (3, H, W).

    Of an animation it is the frame at hand. Mode I counts as 16 bits, as Pillow has it when it
    saves one; F lies in [0, 1]. A colour profile that it carries is applied. Besides what is
    returned, the decoded picture alone is in memory.

    Args:
        picture: Picture to be decoded, or decoded already.
        name: Name for it in a line about its profile.

    Raises:
        ValueError: it has no pixels, numbers beyond its range, or a file behind it that cannot be
            decoded; one line.
    """
    width, height = picture.size
    if not width * height:
        raise ValueError(f"a picture of {width} x {height} pixels; allowed: {ALLOWED}")

    try:
        _load(picture)
        orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception as error:
        # Pillow's decoders raise a dozen kinds on damaged data.
        reason = first_line(error)
        raise ValueError(f"a damaged picture ({reason})") from None

    width, height = picture.size  # some formats are turned while they are decoded
    upright = (height, width)
    if orientation in TURNED:
        upright = (width, height)
    rgb = np.empty((3, *upright), np.uint8)

    # Tile by tile: what conversions need besides is small.
    stored = _as_stored(rgb, orientation)
    tags = getattr(picture, "tag_v2", {})
    convert = to_srgb(picture, name)
    for top, left in product(range(0, height, TILE), range(0, width, TILE)):
        bottom = min(top + TILE, height)
        right = min(left + TILE, width)
        tile = picture
        if max(width, height) > TILE:
            tile = picture.crop((left, top, right, bottom))
        # Without a name, which would keep one tile's pixels while the next one is converted.
        stored[:, top:bottom, left:right] = _pixels(tile, tags, convert).transpose(
            2,
            0,
            1,
        )

    return torch.from_numpy(rgb)


def rgb_of_array(array) -> Tensor:
    """An array of grey, grey and alpha, RGB or RGBA, in either layout, as RGB: uint8 (3, H, W).

    Where both layouts are possible, as in (3, 5, 3), channels come first in a tensor and last in
    anything else, as torch and the others have it. An axis of one picture in front is left out.

    Raises:
        ValueError: it is something else, or its numbers lie beyond its range; one line.
    """
    values = as_tensor(array, ALLOWED)
    if _is_canonical(values) and isinstance(array, Tensor):
        return values

    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]

    may_be_first = values.ndim == 3 and values.shape[0] in CHANNELS
    may_be_last = values.ndim == 3 and values.shape[2] in CHANNELS
    if not may_be_first and not may_be_last:
        raise ValueError(f"{describe(array)} is not one picture; allowed: {ALLOWED}")
    if may_be_last and not (may_be_first and isinstance(array, Tensor)):
        values = values.movedim(2, 0)

    levels = eight_bits(values, describe(array))
    has_alpha = len(levels) in (2, 4)
    if has_alpha:
        mode = "LA" if len(levels) == 2 else "RGBA"
        pixels = levels.permute(1, 2, 0).contiguous()
        picture = PIL.Image.fromarray(pixels.numpy(), mode)
        return rgb_of_picture(picture)

    return levels.expand(3, -1, -1).contiguous()


def _is_canonical(values: Tensor) -> bool:
    """Whether a tensor, channels first, is a raw sample already."""
    is_rgb = values.ndim == 3 and len(values) == 3
    return is_rgb and values.dtype == torch.uint8 and values.is_contiguous()


def eight_bits(values: Tensor, name: str) -> Tensor:
    """Brightness in the range that its dtype gives, as uint8 of the same shape.

    16 bits lose the lower 8, floats are rounded.

    Raises:
        ValueError: the dtype gives no range, or a float would be rounded to something below 0 or
            above 255; one line.
    """
    if values.dtype == torch.uint8:
        return values
    if values.dtype == torch.bool:
        return values.byte() * 255
    if values.dtype == torch.uint16:
        levels = values.to(torch.int32) >> 8
        return levels.byte()
    if not values.is_floating_point():
        raise ValueError(
            f"{name}: its dtype does not tell the range; allowed: {ALLOWED}"
        )

    exact = torch.promote_types(values.dtype, torch.float32)
    levels = (values.to(exact) * 255).round()
    if levels.min() < 0 or levels.max() > 255:
        low = values.min().item()
        high = values.max().item()
        raise ValueError(
            f"{name} has numbers from {low:.4g} to {high:.4g}, floats lie in [0, 1]; "
            f"allowed: {ALLOWED}"
        )

    return levels.byte()


def _load(picture: PIL.Image.Image) -> None:
    """Decodes a picture.

    By its name Pillow maps a TIFF into memory, and one that is turned askew.
    """
    if picture.format != "TIFF" or not isinstance(picture, PIL.ImageFile.ImageFile):
        picture.load()
        return

    name = picture.filename
    picture.filename = ""
    try:
        picture.load()
    finally:
        picture.filename = name


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """A view of upright pixels, with shape (3, H, W), in a file's order.

    EXIF numbers the eight ways to hold a camera.
    """
    axes = MIRRORED.get(orientation, ())
    view = np.flip(upright, axes)
    if orientation in TURNED:
        view = view.swapaxes(1, 2)
    return view


def _pixels(
    tile: PIL.Image.Image,
    tags: Mapping[int, Any],
    convert: Convert,
) -> np.ndarray:
    """RGB of a part of a picture, with shape (H, W, 3)."""
    # Pillow would cut these to 8 bits.
    if tile.mode.startswith("I") or tile.mode == "F":
        tile = _shallow(tile, tags)
    elif tile.mode == "La":
        tile = tile.convert("LA")  # the one conversion that Pillow has

    tile = convert(tile)
    if tile.has_transparency_data:
        white = PIL.Image.new("RGBA", tile.size, "white")
        tile = tile.convert("RGBA")
        tile = PIL.Image.alpha_composite(white, tile)

    if tile.mode != "RGB":
        tile = tile.convert("RGB")
    return np.asarray(tile)


def _shallow(deep: PIL.Image.Image, tags: Mapping[int, Any]) -> PIL.Image.Image:
    """Grey of 16 bits or floats, as 8 bits.

    With what Pillow leaves to others: 12 bits of a TIFF, and one in which white is 0.
    """
    dtype = np.uint16 if deep.mode.startswith("I;16") else None
    values = torch.from_numpy(np.array(deep, dtype))
    name = f"a picture of the mode {deep.mode}"
    if deep.mode == "I":
        if values.min() < 0 or values.max() > 65535:
            low = values.min().item()
            high = values.max().item()
            raise ValueError(
                f"{name} with numbers from {low} to {high}; allowed: {ALLOWED}"
            )
        values = values.to(torch.uint16)
    elif values.is_floating_point() and not values.isfinite().all():
        raise ValueError(f"{name} with numbers that are not finite; allowed: {ALLOWED}")
    elif tuple(tags.get(BITS, ())) == (12,):
        values = values.to(torch.int32) << 4
        values = values.to(torch.uint16)

    levels = eight_bits(values, name)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        levels = 255 - levels

    clear = deep.info.get("transparency")  # a level of grey that is not seen
    if isinstance(clear, int):
        is_clear = values.to(torch.int32) == clear
        levels[is_clear] = 255

    return PIL.Image.fromarray(levels.numpy())
