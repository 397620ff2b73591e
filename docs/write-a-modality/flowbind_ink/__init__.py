"""Ink: a raw sample is one stroke of a pen, float32 with shape (n, 3): x, y (down) and half the line's width."""

from xml.etree import ElementTree

import torch
from PIL import Image, ImageDraw

from flowbind import Codec, Modality
from flowbind.arrays import as_tensor
from flowbind.files import replacing

WAVES = 22  # frequencies a channel: the fewest that give 64 numbers for three channels
SVG = "http://www.w3.org/2000/svg"
SIDE, PIXELS = 3.0, 128  # of the page, which is centred on 0, and of its preview


class CosineInk(Codec):
    """The lowest cosine frequencies of a stroke of any length: closed form, nothing to train or to download.

    Args:
        samples: of a decoded stroke.
    """

    shape = (64,)

    def __init__(self, samples: int = 128) -> None:
        self.samples = samples

    def encode(self, raws):
        spectra = torch.stack([waves(len(raw)) @ raw / len(raw) for raw in raws])
        return spectra.flatten(1)[:, :64].to(self.device)

    def decode(self, latents, generator=None):
        spectra = torch.nn.functional.pad(latents.cpu(), (0, 3 * WAVES - 64)).unflatten(1, (WAVES, 3))
        strokes = waves(self.samples).T @ spectra
        strokes[:, :, 2].clamp_(min=0)  # a flow may ask for a line thinner than none
        return list(strokes)


def waves(samples: int) -> torch.Tensor:
    """Cosines of k half turns, k < WAVES, with shape (WAVES, samples): orthogonal, of mean square 1 (the DCT-II)."""
    angles = torch.pi * torch.arange(WAVES)[:, None] * (torch.arange(samples) + 0.5) / samples
    return angles.cos() * torch.tensor([1.0] + [2**0.5] * (WAVES - 1))[:, None]


class Ink(Modality):
    """Strokes in SVG files that every browser shows: one circle for each sample of the pen."""

    suffixes = (".svg",)
    default_codec = CosineInk

    def read(self, source):
        try:
            circles = ElementTree.parse(source).iter(f"{{{SVG}}}circle")
            stroke = torch.tensor([[float(circle.attrib[key]) for key in ("cx", "cy", "r")] for circle in circles])
            if not (len(stroke) and stroke.isfinite().all()):
                raise ValueError("no circle, or one that is not finite")
            return stroke
        except (ElementTree.ParseError, KeyError, ValueError) as error:
            raise ValueError(f"{source}: not ink, an SVG file of circles with cx, cy and r ({error})") from None

    def accept(self, raw):
        return as_tensor(raw, "x, y and half the line's width, of shape (n, 3)", shape=(None, 3)).float()

    def write(self, raw, path):
        circles = "\n".join(f'<circle cx="{x:.9g}" cy="{y:.9g}" r="{r:.9g}"/>' for x, y, r in raw.tolist())
        page = f'viewBox="{-SIDE / 2} {-SIDE / 2} {SIDE} {SIDE}"'
        with replacing(path) as partial:
            partial.write_text(f'<svg xmlns="{SVG}" {page}>\n{circles}\n</svg>\n')

    def preview(self, raw):
        picture = Image.new("RGB", (4 * PIXELS, 4 * PIXELS), "white")
        for x, y, r in ((raw + torch.tensor([SIDE / 2, SIDE / 2, 0])) * 4 * PIXELS / SIDE).tolist():
            ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), "midnightblue")
        return picture.reduce(4)
