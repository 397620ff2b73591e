"""The gallery: a picture whose rows are source samples and whose columns are what was generated from each of them."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from flowbind.files import replacing

Preview = Image.Image | str  # a picture, or words that stand for themselves

WIDTH = 1200  # pixels: a README's width on a dense screen
MARGIN, GAP = 24, 12
PAD, BORDER = 12, 4  # around words, and around a picture
HEAD, FOOT = 58, 52  # height of the head and of the legend
SHAPE = 0.72  # height of a cell, as a share of its width
STRIP = 24  # height of a row's line of words
SMALL, PLAIN, LARGE = 14, 17, 20  # sizes of type
PAPER, CARD, INK, FAINT = "#ffffff", "#f4f5f7", "#1c2026", "#6b7480"
UNSEEN = "#e0761b"  # frame of what was never seen together in training


@dataclass(frozen=True)
class Row:
    """One source sample.

    Attributes:
        source: the modality it is given in.
        id: of the sample.
        labels: of the sample, in words; may be empty.
        real: the source itself.
        made: what was generated, per modality; a cell without it stays empty.
        unpaired: modalities never seen together with the source in training.
    """

    source: str
    id: str
    labels: str
    real: Preview
    made: Mapping[str, Preview]
    unpaired: AbstractSet[str]


def compose(rows: Sequence[Row], names: Sequence[str], width: int = WIDTH) -> Image.Image:
    """Draws the gallery: the sources in the first column, then one column for each of `names`.

    Args:
        rows: from top to bottom.
        names: modalities, from left to right.
        width: of the picture, in pixels.
    """
    columns = len(names) + 1
    cell = (
        width - 2 * MARGIN - GAP * columns
    ) // columns  # the gap after the first column is twice as wide
    height = round(cell * SHAPE)
    step = STRIP + height + GAP
    picture = Image.new("RGB", (width, HEAD + step * len(rows) + FOOT), PAPER)
    draw = ImageDraw.Draw(picture)
    lefts = [MARGIN] + [MARGIN + cell + 2 * GAP + i * (cell + GAP) for i in range(len(names))]
    for left, title in zip(lefts, ["source", *(f"to {name}" for name in names)], strict=True):
        draw.text(
            (left, HEAD - MARGIN // 2), title, fill=INK, font=_font(LARGE, title), anchor="ls"
        )
    for number, row in enumerate(rows):
        top = HEAD + number * step
        words = " · ".join(filter(None, [row.source, row.labels, row.id]))
        draw.text(
            (MARGIN, top + STRIP // 2), words, fill=FAINT, font=_font(SMALL, words), anchor="lm"
        )
        for left, name in zip(lefts, [None, *names], strict=True):
            box = (left, top + STRIP, left + cell, top + STRIP + height)
            _put(picture, box, row.real if name is None else row.made.get(name, ""))
            frame, weight = (UNSEEN, 3) if name in row.unpaired else ("#d5d9de", 1)
            draw.rounded_rectangle(box, radius=6, outline=frame, width=weight)
    if any(row.unpaired for row in rows):
        base = picture.height - FOOT // 2
        draw.rounded_rectangle(
            (MARGIN, base - 9, MARGIN + 26, base + 9), radius=4, outline=UNSEEN, width=3
        )
        words = "never seen together with the source in training"
        draw.text((MARGIN + 36, base), words, fill=INK, font=_font(PLAIN, words), anchor="lm")
    return picture


def save(picture: Image.Image, path: Path) -> None:
    """Writes the picture as a PNG, beside and then renamed."""
    with replacing(path) as partial:
        picture.save(partial, format="PNG", optimize=True)


def _put(picture: Image.Image, box: tuple[int, int, int, int], shown: Preview) -> None:
    """Fills a cell: a picture as large as it fits, words wrapped and centred."""
    left, top, right, bottom = box
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle(box, radius=6, fill=CARD)
    if isinstance(shown, str):
        middle = (left + right) // 2, (top + bottom) // 2
        size, words = _fit(shown, right - left - 2 * PAD, bottom - top - 2 * PAD)
        draw.text(
            middle, words, fill=INK, font=_font(size, words), anchor="mm", align="center", spacing=5
        )
        return
    shown = shown.convert("RGB")
    scale = min(
        (right - left - 2 * BORDER) / shown.width, (bottom - top - 2 * BORDER) / shown.height
    )
    size = max(round(shown.width * scale), 1), max(round(shown.height * scale), 1)
    shown = shown.resize(size, Image.Resampling.LANCZOS)
    picture.paste(shown, ((left + right - size[0]) // 2, (top + bottom - size[1]) // 2))


def _fit(words: str, width: int, height: int) -> tuple[int, str]:
    """The largest size of type at which words fit, and the words with line breaks; cut short at the smallest size."""
    for size in range(LARGE, SMALL - 1, -1):
        font = _font(size, words)
        lines = _wrap(words, font, width)
        room = height // (size + 5)
        if len(lines) <= room:
            return size, "\n".join(lines)
    return size, "\n".join([*lines[: room - 1], lines[room - 1][:-1] + "..."])


def _wrap(words: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
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


def _font(size: int, words: str) -> ImageFont.FreeTypeFont:
    """Pillow's own font; for what it has no letters for, a system's DejaVu Sans where there is one."""
    if not words.replace("·", "").isascii():
        try:
            return ImageFont.truetype("DejaVuSans.ttf", size)
        except OSError:
            pass
    return ImageFont.load_default(size)
