"""The modality of depth maps: a raw sample is a float32 tensor of metres, with shape (H, W).

A depth is above 0; 0 stands where there is none.
"""

from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from flowbind.arrays import as_tensor, describe
from flowbind.codec import Codec
from flowbind.files import read_regular
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.progress import say
from flowbind_depth.colour import colour
from flowbind_depth.files import HIGHEST, LARGEST, read_map, write_png
from flowbind_depth.pixels import DepthPixels

ALLOWED = (
    "depths in metres, floats of the shape (H, W), (1, H, W) or (H, W, 1), above 0, "
    "and 0 where there is none"
)


class Depth(Modality):
    """Depth maps in metres, of any size.

    Args:
        codec: Codec that turns maps into latents and back; `DepthPixels` if None.
        drift: Size of this modality's drift net; the model's default if None.
        head: Size of this modality's head; the model's default if None.
        scale: Number in a PNG that stands for one metre: 1000 for millimetres, as in NYUv2 and the
            embedded world; 256 in KITTI. Files are written so, too.
        near: Depth in metres of a preview's brightest colour; the least of each map if None.
        far: Depth in metres of a preview's darkest colour; the greatest of each map if None.

    Raises:
        ValueError: the scale is not above 0, or `near` not below `far`.
    """

    suffixes = (".png", ".npy")
    by_folder = True
    default_codec = DepthPixels

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        scale: float = 1000.0,
        near: float | None = None,
        far: float | None = None,
        reads: str | None = None,
    ) -> None:
        super().__init__(codec, drift, head, reads)
        if not 0 < scale < float("inf"):
            raise ValueError(f"depth: scale is {scale}, allowed is any above 0")
        if near is not None and far is not None and not 0 < near < far:
            raise ValueError(f"depth: near is {near} and far {far}; 0 < near < far")

        self.scale = scale
        self.near = near
        self.far = far

    def read(self, source: str | Path) -> Tensor:
        """Reads a map: a PNG of 16 bits, by `scale`, or an array (.npy) of floats in metres.

        In a PNG 0 is no depth; in an array so are 0 and what is not finite.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is damaged, of another kind, of another shape, larger than 16 million
                pixels, has a depth below 0, or none at all.
        """
        content = read_regular(source, LARGEST)
        try:
            return self.accept(read_map(content, self.scale))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None

    def accept(self, raw: Any) -> Tensor:
        """A map in metres as float32, with shape (H, W), of an array of floats.

        Raises:
            ValueError: it is no such array, such as one of whole numbers, whose unit nothing tells;
                has depths below 0 or not finite, or none at all; one line.
        """
        depth = as_tensor(raw, ALLOWED)
        if depth.ndim == 3 and 1 in (depth.shape[0], depth.shape[2]):
            depth = depth.squeeze(0 if depth.shape[0] == 1 else 2)
        if depth.ndim != 2:
            raise ValueError(
                f"{describe(raw)} is not one depth map; allowed: {ALLOWED}"
            )
        if not depth.is_floating_point():
            raise ValueError(
                f"{describe(raw)} does not tell its unit; allowed: {ALLOWED}"
            )

        metres = depth.float().contiguous()
        least, greatest = metres.aminmax()
        if least < 0:
            raise ValueError(
                f"{describe(raw)} has a depth of {least:.4g}; allowed: {ALLOWED}"
            )
        if not 0 < greatest < torch.inf:
            raise ValueError(
                f"{describe(raw)} has no depth at all, or one of {greatest:.4g}; "
                f"allowed: {ALLOWED}"
            )
        return metres

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes a map as a PNG of 16 bits; a line says how many depths are beyond its range."""
        beyond = write_png(raw.numpy(force=True), path, self.scale)
        if beyond:
            say(
                f"{path}: {beyond} depths beyond {HIGHEST / self.scale:g} m are written as that; "
                f"a scale below {self.scale:g} reaches farther"
            )

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """The map in colours: near is bright and warm, far is dark, none is grey."""
        return colour(raw.numpy(force=True), self.near, self.far)
