"""Exhibits: what a page shows of a raw sample, for people to read, look at, play or turn.

A modality says by `exhibit` what that is. Here it becomes HTML that needs nothing beside it: no file,
no network. Clouds turn by the element of `SCRIPT`, which a page has once.
"""

import base64
import html
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

MOST = 4096  # points of a cloud on a page
SPAN = 32767  # of the numbers that stand for places
LOSSLESS = 256 * 256  # pixels of a picture that is kept to the bit
BYTES = "application/octet-stream"  # media type of a file of which nothing is known


class Recording(NamedTuple):
    """What browsers play: a file's content, and its media type, of which the first half is the element."""

    content: bytes
    media_type: str


class Cloud(NamedTuple):
    """Coloured points, which turn.

    Attributes:
        places: x, y and z of each point, z up, with shape (n, 3).
        colours: Red, green and blue of each in [0, 1], with shape (n, 3).
        extent: Half the width of what is shown around the origin, in the places' units.
    """

    places: Tensor
    colours: Tensor
    extent: float


Preview = str | Image.Image  # words that stand for themselves, or a picture
Exhibit = Preview | Recording | Cloud  # ... or what is played, or what turns


def to_html(exhibit: Exhibit, longest: int | None = None) -> str:
    """An exhibit as an element of HTML with all that it needs within, but for `SCRIPT`.

    Args:
        exhibit: Exhibit, as a modality gives it.
        longest: Pixels of a picture's longer side at most; larger ones are reduced. None: as it is.
    """
    match exhibit:
        case str():
            return f'<p class="words">{html.escape(exhibit)}</p>'
        case Image.Image():
            source = _picture(exhibit, longest)
            return f'<img src="{source}" alt="" loading="lazy">'
        case Recording(content, media_type):
            element = media_type.partition("/")[0]
            source = as_url(content, media_type)
            return f'<{element} controls preload="metadata" src="{source}"></{element}>'
        case Cloud():
            return f'<turning-cloud packed="{_packed(exhibit)}"></turning-cloud>'
    raise TypeError(
        f"exhibit: {type(exhibit).__name__} is none; allowed: a string, a PIL picture, "
        "a Recording or a Cloud"
    )


def to_figure(exhibit: Exhibit, preview: Preview, longest: int | None = None) -> str:
    """An exhibit as HTML, under its preview where it is played, so that it can be seen as well.

    Args:
        exhibit: Exhibit, as a modality gives it.
        preview: Preview of the same sample.
        longest: Pixels of a picture's longer side at most; larger ones are reduced. None: as it is.
    """
    if isinstance(exhibit, Recording):
        return to_html(preview, longest) + to_html(exhibit)
    return to_html(exhibit, longest)


def as_url(content: bytes, media_type: str = BYTES) -> str:
    """A file's content as a URL, for pages that are one file."""
    return f"data:{media_type};base64,{_base64(content)}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _picture(picture: Image.Image, longest: int | None) -> str:
    """A picture as a URL: PNG, or WebP where it is reduced and large all the same."""
    data = BytesIO()
    if longest is None or picture.width * picture.height <= LOSSLESS:
        picture.save(data, format="PNG", optimize=True)
        return as_url(data.getvalue(), Image.MIME["PNG"])

    reduced = picture.convert("RGB")
    reduced.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    reduced.save(data, format="WEBP", quality=90)
    return as_url(data.getvalue(), Image.MIME["WEBP"])


def _packed(cloud: Cloud) -> str:
    """The points as the element reads them: of each three int16, then three bytes of colour.

    Of a larger cloud every so many are left out.
    """
    step = -(-len(cloud.places) // MOST)
    places = cloud.places[::step].float().cpu() / cloud.extent
    colours = cloud.colours[::step].float().cpu()

    place = places.clamp(-1, 1).mul(SPAN).round().to(torch.int16)
    colour = colours.clamp(0, 1).mul(255).round().to(torch.uint8)
    packed = place.numpy().tobytes() + colour.numpy().tobytes()
    return _base64(packed)


@cache
def script() -> str:
    """The script of the element that turns clouds, in its tag."""
    code = Path(__file__).with_name("turning_cloud.js").read_text(encoding="utf-8")
    return f"<script>\n{code}</script>"
