"""The modality of points in the plane: a raw sample is a float32 tensor of x and y."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import torch
from torch import Tensor

from flowbind.arrays import as_tensor
from flowbind.codec import Codec
from flowbind.files import read_regular
from flowbind.modality import Modality
from flowbind_plane.world import CELL, CELLS

ALLOWED = "two numbers, x and y"
LONGEST = 1000  # bytes of a file
PREVIEW = 96  # pixels a side
DOT = 3  # pixels from its middle to its edge


class PointCodec(Codec):
    """A point as it is: its latent has two numbers."""

    shape = (2,)

    def __init__(self) -> None:
        pass

    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(raws)).to(self.device)

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        return list(latents.float().cpu().unbind())


class PlanePoint(Modality):
    """A point in the plane, such as "0.5 -1.25"."""

    suffixes = (".xy",)
    literal = True
    default_codec = PointCodec

    def read(self, source: str | Path) -> Tensor:
        """Reads a point: two numbers, in a file or as they are.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is something else.
        """
        if isinstance(source, str):
            text = source
        else:
            text = read_regular(source, LONGEST).decode("ascii", "replace")
        try:
            x, y = map(float, text.split())
            return self.accept(torch.tensor([x, y]))
        except ValueError:
            raise ValueError(f"{source}: no point; allowed: {ALLOWED}") from None

    def accept(self, raw: Any) -> Tensor:
        """A point as float32, with shape (2,), of an array of two numbers.

        Raises:
            ValueError: it is no such array; one line.
        """
        return as_tensor(raw, ALLOWED, shape=(2,)).float()

    def write(self, raw: Tensor, path: Path) -> None:
        x, y = raw.tolist()
        path.write_text(f"{x!r} {y!r}\n", encoding="ascii")

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """A dot on the grid's cells."""
        picture = PIL.Image.new("RGB", (PREVIEW, PREVIEW), "white")
        pen = PIL.ImageDraw.Draw(picture)
        for line in range(1, CELLS):
            place = line * PREVIEW // CELLS
            pen.line((place, 0, place, PREVIEW), fill="lightgray")
            pen.line((0, place, PREVIEW, place), fill="lightgray")

        half = CELL * CELLS / 2
        x, y = ((raw / half).clamp(-1, 1) * PREVIEW / 2).tolist()
        middle = PREVIEW / 2
        pen.circle((middle + x, middle - y), DOT, fill="black")
        return picture
