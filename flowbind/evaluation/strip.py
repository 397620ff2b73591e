"""A strip: what lies between two samples in one picture, from left to right, a line for each target."""

from collections.abc import Sequence

from PIL import Image

HEIGHT = 128  # pixels of a picture
GAP = 4  # between two of them
PAPER = "#ffffff"


def compose(lines: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures beside one another, all equally high.

    Args:
        lines: Pictures of each line from left to right; at least one line with one picture.
    """
    resized = []
    for line in lines:
        resized.append([_resize(picture) for picture in line])
    widths = [sum(picture.width + GAP for picture in line) - GAP for line in resized]
    height = (HEIGHT + GAP) * len(lines) - GAP

    strip = Image.new("RGB", (max(widths), height), PAPER)
    for number, line in enumerate(resized):
        left = 0
        for picture in line:
            strip.paste(picture, (left, number * (HEIGHT + GAP)))
            left += picture.width + GAP
    return strip


def _resize(picture: Image.Image) -> Image.Image:
    width = max(round(picture.width * HEIGHT / picture.height), 1)
    return picture.convert("RGB").resize((width, HEIGHT), Image.Resampling.LANCZOS)
