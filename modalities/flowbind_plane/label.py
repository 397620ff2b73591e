"""The modality of a grid's labels: a raw sample is a string, such as "7"."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind.arrays import describe
from flowbind.codec import Codec
from flowbind.files import read_regular
from flowbind.modality import Modality
from flowbind_plane.world import LABELS

LONGEST = 1000  # bytes of a file
BEFORE = "label "  # in a file, before the label
KNOWN = tuple(map(str, range(LABELS)))


class LabelCodec(Codec):
    """A label as a sequence of one id."""

    shape = (1,)
    dtype = torch.int64
    vocabulary = LABELS

    def __init__(self) -> None:
        pass

    def encode(self, raws: Sequence[str]) -> Tensor:
        return torch.tensor([[int(raw)] for raw in raws], device=self.device)

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[str]:
        return [KNOWN[label] for label in latents[:, 0].tolist()]


class PlaneLabel(Modality):
    """The label i + j of a cell (i, j), from "0" to "10"."""

    suffixes = (".label",)
    literal = True
    default_codec = LabelCodec

    def read(self, source: str | Path) -> str:
        """Reads a label: as it is, or a file's line such as "label 7".

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is none.
        """
        if not isinstance(source, Path):
            return self.accept(source)

        text = read_regular(source, LONGEST).decode("ascii", "replace")
        try:
            return self.accept(text.removeprefix(BEFORE).removesuffix("\n"))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def accept(self, raw: Any) -> str:
        """A label as it is.

        Raises:
            ValueError: it is none; one line.
        """
        if not isinstance(raw, str) or raw not in KNOWN:
            raise ValueError(
                f"{describe(raw)} is no label; allowed are the strings '0' to '{KNOWN[-1]}'"
            )
        return raw

    def write(self, raw: str, path: Path) -> None:
        path.write_text(f"{BEFORE}{raw}\n", encoding="ascii")

    def preview(self, raw: str) -> str:
        return raw
