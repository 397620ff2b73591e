"""Colour profiles that pictures carry (ICC.1), applied by Pillow's Little CMS.

Numbers of another space become those of sRGB, which codecs are trained on.
"""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import PIL.Image
from PIL import ImageCms

from flowbind.errors import first_line
from flowbind.progress import say

ALIKE = 2  # of 255: by how much a profile moves colours that is sRGB's own, rounded
LEVELS = range(0, 256, 51)
# As browsers do it. White stays white, black stays black.
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
# Modes of pictures, by the space of a profile, that have its numbers or become them without it.
FITTING = {
    "RGB": ("RGB", "RGBA", "RGBX", "P", "PA", "L", "LA", "1", "YCbCr", "HSV"),
    "GRAY": ("L", "LA", "1"),
    "CMYK": ("CMYK",),
}
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}

Convert = Callable[[PIL.Image.Image], PIL.Image.Image]


def to_srgb(picture: PIL.Image.Image, name: str) -> Convert:
    """What gives a part of a picture in sRGB: itself where the picture has no other profile.

    A profile that cannot be applied, or is of another kind of colours than the picture's, is left
    aside, and a line says so, once.

    Args:
        picture: Picture that may carry a profile.
        name: Name for it in the line.
    """
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return _same

    try:
        space, transform = _transform(profile)
    except Exception as error:
        # Pillow raises its own kind, and others where it lacks Little CMS.
        reason = first_line(error)
        _say_once(
            f"{name}: its colour profile cannot be applied, and is left aside ({reason})"
        )
        return _same
    if transform is None:
        return _same

    def convert(part: PIL.Image.Image) -> PIL.Image.Image:
        if part.mode not in FITTING[space]:
            _say_once(
                f"{name}: its colour profile is one of {space}, the picture has the mode "
                f"{part.mode}; the profile is left aside"
            )
            return part

        # Profiles know no transparency: it passes by.
        alpha = None
        if part.has_transparency_data:
            alpha = part.convert("RGBA").getchannel("A")
        part = part.convert(MODES[space])
        converted = ImageCms.applyTransform(part, transform)
        assert converted is not None  # as it is where a picture changes in place
        if alpha is not None:
            converted.putalpha(alpha)

        return converted

    return convert


@lru_cache(maxsize=8)  # pictures of one camera or program share theirs
def _transform(content: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The space of a profile, and what turns its numbers into sRGB; None if they are that already.

    Raises:
        Exception: it is damaged, or there is no Little CMS.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    space = profile.profile.xcolor_space.strip()
    if space == "Lab":  # whose pictures Pillow knows without it
        return space, None
    if space not in MODES:
        raise ValueError(f"one of the space {space}")

    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(
        profile,
        srgb,
        MODES[space],
        "RGB",
        INTENT,
        FLAGS,
    )

    if space != "CMYK":
        probe = _probe(MODES[space])
        converted = ImageCms.applyTransform(probe, transform)
        moved = np.asarray(converted, np.int16)
        original = np.asarray(probe.convert("RGB"))
        if np.abs(moved - original).max() <= ALIKE:
            return space, None

    return space, transform


def _probe(mode: str) -> PIL.Image.Image:
    """Colours all over the cube, or from black to white."""
    axes = (LEVELS,) * len(mode)
    grid = np.stack(np.meshgrid(*axes), -1)
    colours = grid.astype(np.uint8)
    colours = colours.reshape(1, -1, len(mode))
    if mode != "RGB":
        colours = colours[..., 0]
    return PIL.Image.fromarray(colours)


def _same(part: PIL.Image.Image) -> PIL.Image.Image:
    return part


@lru_cache(maxsize=1024)
def _say_once(line: str) -> None:
    say(line)
