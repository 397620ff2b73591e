"""The modality of point clouds: a raw sample is a float32 tensor of coloured points, with shape (n, 6)."""

from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from flowbind.codec import Codec
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.regular import read_regular
from flowbind_points.mesh import read_mesh
from flowbind_points.picture import draw
from flowbind_points.ply import read_points, write_points
from flowbind_points.small import SmallPoints

LARGEST = 2**28  # bytes of a file


class Points(Modality):
    """Clouds of coloured points: x, y, z in world units, then red, green, blue in [0, 1].

    Args:
        codec: turns clouds into latents and back; `SmallPoints` if None.
        drift: size of this modality's drift net; the model's default if None.
        head: size of this modality's head; the model's default if None.
        extent: half the width of what a preview shows around the origin, in world units; fixed, so that sizes compare.
    """

    suffixes = (".ply", ".obj", ".stl", ".off")
    default_codec = SmallPoints

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        extent: float = 1.1,
    ) -> None:
        super().__init__(codec, drift, head)
        self.extent = extent

    def read(self, source: str | Path) -> Tensor:
        """Reads a cloud, with shape (n, 6): a PLY file's points, or points drawn on the surface of a mesh.

        Points without colours are mid-grey. The points drawn on a mesh are always the same.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, of another format, larger than 256 MiB, or has no points.
        """
        path = Path(source)
        if path.suffix.lower() not in self.suffixes:
            raise ValueError(f"{source}: not a point cloud or mesh; allowed: {', '.join(self.suffixes)}")
        content = read_regular(path, LARGEST)
        try:
            cloud = read_points(content) if path.suffix.lower() == ".ply" else None
            cloud = torch.from_numpy(read_mesh(content, path.suffix.lower()) if cloud is None else cloud)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        if not len(cloud):
            raise ValueError(f"{source}: no points; a cloud needs at least one")
        if not cloud.isfinite().all():
            raise ValueError(f"{source}: numbers that are not finite")
        return cloud

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes a cloud, with shape (n, 6), as binary PLY with 8-bit colours."""
        write_points(raw.numpy(force=True), path)

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """A shaded picture of the cloud, seen from above at an angle."""
        return draw(raw.numpy(force=True), self.extent)
