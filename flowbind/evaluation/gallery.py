"""The gallery: a picture with a row for each source sample, a column for each target.

A cell shows what several seeds made of the same source, side by side; words one above the other.
Sources of which other targets are made stand below, under a head of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from flowbind.exhibit import Exhibit, Preview
from flowbind.files import replacing

WIDTH = 1800  # pixels: twice a README's width, for dense screens
MARGIN = 24
GAP = 12
PAD = 12  # around words
BORDER = 4  # around a picture
HEAD = 58  # height of the head
FOOT = 52  # height of the legend
SHAPE = 0.36  # height of a cell, as a share of its width
STRIP = 24  # height of a row's line of words
SMALL, PLAIN, LARGE = 14, 17, 20  # sizes of type
THIN = 2  # pixels, less than any letter is wide
PAPER, CARD, INK, FAINT = "#ffffff", "#f4f5f7", "#1c2026", "#6b7480"
FRAME = "#d5d9de"
UNSEEN = "#e0761b"  # frame of what was never seen together in training

Box = tuple[int, int, int, int]  # left, top, right and bottom, in pixels


@dataclass(frozen=True)
class Row:
    """One source sample.

    Attributes:
        source: Modality it is given in.
        id: Identifier of the sample.
        labels: The sample's labels, in words; may be empty.
        real: The source itself.
        generated: What each seed generated, per modality; a cell without it stays empty.
        unpaired: Modalities never seen together with the source in training.
        exhibits: What a page shows of the same samples: per modality of each seed, and under None
            the source itself.
    """

    source: str
    id: str
    labels: str
    real: Preview
    generated: Mapping[str, Sequence[Preview]]
    unpaired: AbstractSet[str]
    exhibits: Mapping[str | None, Sequence[Exhibit]] = field(default_factory=dict)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Block = tuple[tuple[str, ...], list[Row]]  # targets from left to right, and rows


def blocks(rows: Sequence[Row], names: Sequence[str]) -> Iterator[Block]:
    """Rows under one head each: consecutive ones from whose sources the same targets are made.

    Args:
        rows: Rows from top to bottom.
        names: Modalities from left to right.
    """
    made: dict[str, set[str]] = {}
    for row in rows:
        made.setdefault(row.source, set()).update(row.generated)

    def targets(row: Row) -> tuple[str, ...]:
        return tuple(name for name in names if name in made[row.source])

    for key, members in groupby(rows, targets):
        yield key, list(members)


def compose(
    rows: Sequence[Row],
    names: Sequence[str],
    width: int = WIDTH,
) -> Image.Image:
    """Draws the gallery: the sources in the first column, then one column for each of their targets.

    Args:
        rows: Rows from top to bottom.
        names: Modalities from left to right.
        width: Width of the picture, in pixels.
    """
    parts = [_compose_block(*block, width) for block in blocks(rows, names)]
    height = sum(part.height for part in parts) + FOOT
    picture = Image.new("RGB", (width, height), PAPER)
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height

    if any(row.unpaired for row in rows):
        _put_legend(picture)
    return picture


def _compose_block(
    names: Sequence[str],
    rows: Sequence[Row],
    width: int,
) -> Image.Image:
    """Rows of the same targets, under their head."""
    # The gap after the first column is twice as wide.
    columns = len(names) + 1
    cell = (width - 2 * MARGIN - GAP * columns) // columns
    height = round(cell * SHAPE)
    step = STRIP + height + GAP
    lefts = [MARGIN]
    for number in range(len(names)):
        lefts.append(MARGIN + cell + 2 * GAP + number * (cell + GAP))

    picture = Image.new("RGB", (width, HEAD + step * len(rows)), PAPER)
    draw = ImageDraw.Draw(picture)
    titles = ["source", *(f"to {name}" for name in names)]
    for left, title in zip(lefts, titles, strict=True):
        write(draw, (left, HEAD - MARGIN // 2), title, INK, LARGE, anchor="ls")

    for number, row in enumerate(rows):
        top = HEAD + number * step
        words = " · ".join(filter(None, [row.source, row.labels, row.id]))
        write(draw, (MARGIN, top + STRIP // 2), words, FAINT, SMALL)

        cells = [[row.real], *(row.generated.get(name, ()) for name in names)]
        for left, name, previews in zip(lefts, [None, *names], cells, strict=True):
            box = (left, top + STRIP, left + cell, top + STRIP + height)
            _put_cell(picture, box, previews, is_unseen=name in row.unpaired)
    return picture


def _put_cell(
    picture: Image.Image,
    box: Box,
    previews: Sequence[Preview],
    is_unseen: bool,
) -> None:
    """A cell in its frame, which tells what was never seen together in training."""
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(box, radius=6, fill=CARD)
    put(picture, box, previews)
    draw.rounded_rectangle(
        box,
        radius=6,
        outline=UNSEEN if is_unseen else FRAME,
        width=3 if is_unseen else 1,
    )


def _put_legend(picture: Image.Image) -> None:
    """What the frame of the unseen means, at the foot of the picture."""
    draw = ImageDraw.Draw(picture)
    middle = picture.height - FOOT // 2
    sample = (MARGIN, middle - 9, MARGIN + 26, middle + 9)
    draw.rounded_rectangle(
        sample,
        radius=4,
        outline=UNSEEN,
        width=3,
    )
    words = "never seen together with the source in training"
    write(draw, (MARGIN + 36, middle), words, INK, PLAIN)


def save(picture: Image.Image, path: Path) -> None:
    """Writes the picture as a PNG, beside and then renamed."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG", optimize=True)


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    words: str,
    fill: str,
    size: int,
    anchor: str = "lm",
) -> None:
    draw.text(
        place,
        words,
        fill=fill,
        font=_font(size, words),
        anchor=anchor,
    )


def put(
    picture: Image.Image,
    box: Box,
    previews: Sequence[Preview],
) -> None:
    """Fills a cell: pictures as large as they fit, side by side, words one above the other."""
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    count = len(previews)
    for number, preview in enumerate(previews):
        if isinstance(preview, str):
            height = (bottom - top) // count
            begin = top + number * height
            _put_words(draw, (left, begin, right, begin + height), preview)
        else:
            width = (right - left) // count
            begin = left + number * width
            part = (begin, top, begin + width, bottom)
            _put_picture(picture, part, preview.convert("RGB"))


def _put_words(draw: ImageDraw.ImageDraw, box: Box, words: str) -> None:
    left, top, right, bottom = box
    pad = min(PAD, (bottom - top) // 8)
    size, wrapped = _fit(
        words,
        width=right - left - 2 * PAD,
        height=bottom - top - 2 * pad,
    )
    middle = ((left + right) // 2, (top + bottom) // 2)
    draw.text(
        middle,
        wrapped,
        fill=INK,
        font=_font(size, wrapped),
        anchor="mm",
        align="center",
        spacing=5,
    )


def _put_picture(
    picture: Image.Image,
    box: Box,
    preview: Image.Image,
) -> None:
    left, top, right, bottom = box
    across = (right - left - 2 * BORDER) / preview.width
    down = (bottom - top - 2 * BORDER) / preview.height
    scale = min(across, down)

    width = max(round(preview.width * scale), 1)
    height = max(round(preview.height * scale), 1)
    size = (width, height)
    resized = preview.resize(size, Image.Resampling.LANCZOS)
    corner = (
        (left + right - width) // 2,
        (top + bottom - height) // 2,
    )
    picture.paste(resized, corner)


def _fit(words: str, width: int, height: int) -> tuple[int, str]:
    """The largest size of type at which words fit a cell, and the words with line breaks.

    At the smallest size they are cut short.

    Args:
        words: Words to fit.
        width: Width of the room for them, in pixels.
        height: Height of the room for them, in pixels.
    """
    # More letters than any cell shows, which are slow to measure.
    words = words[: width // THIN * max(height // SMALL, 1) + 1]

    for size in range(LARGE, SMALL - 1, -1):
        font = _font(size, words)
        lines = _wrap(words, font, width)
        room = max(height // (size + 5), 1)
        if len(lines) <= room:
            return size, "\n".join(lines)

    last = lines[room - 1][:-1] + "..."
    lines = [*lines[: room - 1], last]
    return size, "\n".join(lines)


def _wrap(
    words: str,
    font: Font,
    width: int,
) -> list[str]:
    """Lines no wider than `width` pixels; a word too long for a line is broken."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue

        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _font(size: int, words: str) -> Font:
    """Pillow's own font; for letters that it lacks, a system's DejaVu Sans where there is one."""
    if not words.replace("·", "").isascii():
        try:
            return ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:
            pass
    return ImageFont.load_default(size)
