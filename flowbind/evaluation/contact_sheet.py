"""A contact sheet: samples of a manifest in one picture, each modality as its preview shows it."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from flowbind.evaluation.gallery import (
    CARD,
    FAINT,
    FRAME,
    INK,
    LARGE,
    MARGIN,
    PAPER,
    PLAIN,
    SMALL,
    STRIP,
    Preview,
    put,
    write,
)

CELL = 160  # pixels, the width of a preview
PAD = 6  # between the previews of one sample
GAP = 24  # between samples
SHAPE = 0.8  # height of a cell, as a share of its width
HEAD = 52  # height of the head
WIDEST = 1800  # pixels


class Entry(NamedTuple):
    """One sample: what is written above it, and its previews by modality."""

    caption: str
    previews: Mapping[str, Preview]


def contact_sheet(entries: Sequence[Entry], title: str = "") -> Image.Image:
    """Draws samples one beside and below the other, those of one kind together.

    Args:
        entries: Samples; those with the same modalities are of one kind.
        title: Line above all.
    """
    kinds: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(tuple(entry.previews), []).append(entry)
    blocks = [_block(kind, members) for kind, members in kinds.items()]

    width = 2 * MARGIN + max(block.width for block in blocks)
    height = HEAD + sum(block.height for block in blocks) + MARGIN
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    write(draw, (MARGIN, HEAD // 2), _cut(title, width - 2 * MARGIN, LARGE), INK, LARGE)

    top = HEAD
    for block in blocks:
        picture.paste(block, (MARGIN, top))
        top += block.height
    return picture


def _block(names: Sequence[str], entries: Sequence[Entry]) -> Image.Image:
    """The samples of one kind, each with a cell for each of its modalities."""
    height = round(CELL * SHAPE)
    sample = (CELL + PAD) * len(names) - PAD  # pixels, the width of one
    columns = max((WIDEST - 2 * MARGIN + GAP) // (sample + GAP), 1)
    columns = min(columns, len(entries))
    lines = math.ceil(len(entries) / columns)
    step = STRIP + height + PAD

    size = (columns * (sample + GAP) - GAP + 1, STRIP + lines * step + GAP)
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    write(draw, (0, STRIP // 2), " + ".join(names), INK, PLAIN)

    for number, entry in enumerate(entries):
        line, column = divmod(number, columns)
        left = column * (sample + GAP)
        top = STRIP + line * step
        caption = _cut(entry.caption, sample, SMALL)
        write(draw, (left, top + STRIP // 2), caption, FAINT, SMALL)

        for place, name in enumerate(names):
            begin = left + place * (CELL + PAD)
            box = (begin, top + STRIP, begin + CELL, top + STRIP + height)
            draw.rounded_rectangle(box, radius=6, fill=CARD, outline=FRAME)
            put(picture, box, [entry.previews[name]])
    return picture


def _cut(words: str, width: int, size: int) -> str:
    """As much of a line as fits so many pixels; a letter is about half as wide as high."""
    most = max(width // (size // 2 + 1), 1)
    return words if len(words) <= most else words[: most - 1] + "…"
