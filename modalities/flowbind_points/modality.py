"""The modality of point clouds: a raw sample is a float32 tensor of coloured points, (n, 6)."""

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from flowbind.arrays import as_tensor, describe
from flowbind.codec import Codec
from flowbind.exhibit import Cloud
from flowbind.files import open_regular
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.progress import say
from flowbind.turns import weigh
from flowbind_points.beside import Beside
from flowbind_points.by_trimesh import (
    from_trimesh,
    is_from_trimesh,
    missing_library,
    read_mesh,
)
from flowbind_points.cloud import FAR, MOST, Scan, to_cloud
from flowbind_points.gltf import read_glb, read_gltf
from flowbind_points.judge import PointsJudge
from flowbind_points.obj import read_obj
from flowbind_points.off import read_off
from flowbind_points.pcd import read_points
from flowbind_points.picture import draw, lit
from flowbind_points.ply import read_ply, write_points
from flowbind_points.small import SmallPoints
from flowbind_points.surface import Geometry, to_scan
from flowbind_points.table import read_archive, read_array, read_text
from flowbind_points.three_mf import read_3mf

LARGEST = 2**29  # bytes of a file
# Bytes of memory that a byte takes at most: faces of an OBJ, three and four corners by turns.
WEIGHT = 33
ALLOWED = (
    "x, y, z or x, y, z, red, green, blue of shape (n, 3) or (n, 6), a pair of places and colours, "
    "or a mesh, cloud or scene of trimesh's"
)

SIGNS = {  # how files begin, whatever they are called
    b"ply\n": ".ply",
    b"ply\r": ".ply",
    b"glTF": ".glb",
    b"# .PCD": ".pcd",
    b"\x93NUMPY": ".npy",
}


class Points(Modality):
    """Clouds of coloured points: x, y, z in world units, then red, green, blue in [0, 1].

    Args:
        codec: Codec that turns clouds into latents and back; `SmallPoints` if None.
        drift: Size of this modality's drift net; the model's default if None.
        head: Size of this modality's head; the model's default if None.
        extent: Half the width of what a preview shows around the origin, in world units; fixed, so
            that sizes compare.
    """

    suffixes = (
        *(".ply", ".obj", ".stl", ".off", ".glb", ".gltf", ".dae", ".3mf"),
        *(".pcd", ".xyz", ".xyzn", ".xyzrgb", ".pts", ".npy", ".npz"),
    )
    default_codec = SmallPoints
    default_judge = PointsJudge
    # 1 drew other points on meshes, and took colours of other ranges as they were; 2 took glTF's
    # light for a screen's colours, and 3MF without any.
    version = 3

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        extent: float = 1.1,
        reads: str | None = None,
    ) -> None:
        super().__init__(codec, drift, head, reads)
        self.extent = extent

    def missing(self, suffix: str) -> str:
        """The library that reads meshes with a suffix, if it is not there or fails."""
        return missing_library(suffix)

    def read(self, source: str | Path) -> Tensor:
        """Reads a cloud, with shape (n, 6): a file's points, or points drawn on a mesh's surface.

        Points without colours are mid-grey. The points drawn on a mesh are always the same. What is
        left out or cannot be found, such as a picture of its colours, is said in a line, once.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, of another format, larger than 512 MiB, or has no
                points.
        """
        path = Path(source)
        suffix = path.suffix.lower()
        if suffix not in self.suffixes:
            raise ValueError(
                f"{source}: not named like a point cloud or mesh; "
                f"allowed: {', '.join(self.suffixes)}; a text of points is named .xyz"
            )

        with open_regular(path, LARGEST) as file:
            size = os.fstat(file.fileno()).st_size
            weigh(WEIGHT * size)
            content = file.read()

        try:
            geometry = _read(content, suffix, Beside(path.parent))
            return _cloud(geometry, str(source))
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
        except Exception as error:  # of whatever else a damaged file leads a reader to
            raise ValueError(
                f"{source}: damaged, or too large to be read ({type(error).__name__})"
            ) from None

    def accept(self, raw: Any) -> Tensor:
        """A cloud, with shape (n, 6), of places, or places and colours.

        They are in any array, or in an object of trimesh's. Colours are given in [0, 1], or in the
        numbers of 8 or 16 bits; without them points are mid-grey. Of more than 131,072 points so
        many are kept.

        Raises:
            ValueError: it is no cloud; one line that says what was given and what would be taken.
        """
        if is_from_trimesh(raw):
            return _accept(from_trimesh(raw), raw)

        if _is_pair(raw):
            place, colour = (as_tensor(part, ALLOWED, shape=(None, 3)) for part in raw)
            if len(place) != len(colour):
                raise ValueError(
                    f"{len(place)} places and {len(colour)} colours; "
                    "allowed: as many of the one as of the other"
                )
            scan = _scan(place, colour)
            return _accept(Geometry(points=scan), raw)

        tensor = as_tensor(raw, ALLOWED, shape=(None, None))
        if tensor.shape[1] not in (3, 6):
            raise ValueError(
                f"{describe(raw)} has rows of {tensor.shape[1]} numbers; allowed: {ALLOWED}"
            )
        if _is_canonical(tensor):
            return tensor

        beside = tensor[:, 3:] if tensor.shape[1] == 6 else None
        scan = _scan(tensor[:, :3], beside)
        return _accept(Geometry(points=scan), raw)

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes a cloud, with shape (n, 6), as binary PLY with 8-bit colours."""
        write_points(raw.numpy(force=True), path)

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """A shaded picture of the cloud, seen from above at an angle."""
        return draw(raw.numpy(force=True), self.extent)

    def exhibit(self, raw: Tensor) -> Cloud:
        """The cloud itself in the light of a lamp, as much of the world as in a preview."""
        points = torch.from_numpy(lit(raw.numpy(force=True)))
        return Cloud(points[:, :3], points[:, 3:], self.extent)


def _is_pair(raw: Any) -> bool:
    """Whether something is two tables, of places and of colours, and not two points in a list."""
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        return False
    return all(len(getattr(part, "shape", ())) == 2 for part in raw)


def _read(content: bytes, suffix: str, beside: Beside) -> Geometry:
    """The geometry in a file.

    Its first bytes give the format, or its suffix where they do not.
    """
    kind = next(
        (kind for sign, kind in SIGNS.items() if content.startswith(sign)), suffix
    )

    match kind:
        case ".ply":
            return read_ply(content, beside)
        case ".obj":
            return read_obj(content, beside)
        case ".off":
            return read_off(content)
        case ".glb":
            return read_glb(content, beside)
        case ".gltf":
            return read_gltf(content, beside)
        case ".3mf":
            return read_3mf(content)
        case ".stl" | ".dae":
            return read_mesh(content, kind, beside)
        case ".pcd":
            return Geometry(points=read_points(content))
        case ".npy":
            return Geometry(points=read_array(content))
        case ".npz":
            return Geometry(points=read_archive(content))
        case _:
            return Geometry(points=read_text(content, kind))


def _cloud(geometry: Geometry, what: str) -> Tensor:
    scan, remarks = to_scan(geometry)
    cloud, more = to_cloud(scan)
    clauses = dict.fromkeys([*remarks, *more])
    if clauses:
        line = "; ".join(clauses)
        _say_once(f"{what}: {line}")

    return cloud


def _accept(geometry: Geometry, raw: Any) -> Tensor:
    try:
        return _cloud(geometry, describe(raw))
    except ValueError as error:
        raise ValueError(f"{describe(raw)}: {error}; allowed: {ALLOWED}") from None


def _scan(place: Tensor, colour: Tensor | None) -> Scan:
    if colour is None:
        return Scan(_numpy(place))
    return Scan(_numpy(place), _numpy(colour))


def _numpy(tensor: Tensor) -> np.ndarray:
    """The same numbers; numpy has no bfloat16."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()


def _is_canonical(tensor: Tensor) -> bool:
    """Whether numbers, with shape (n, 6) or (n, 3), are a raw sample already."""
    if tensor.dtype != torch.float32 or tensor.shape[1] != 6 or len(tensor) > MOST:
        return False

    lowest, highest = tensor[:, :3].aminmax()
    darkest, brightest = tensor[:, 3:].aminmax()
    is_near = lowest > -FAR and highest < FAR
    is_colour = darkest >= 0 and brightest <= 1
    return bool(is_near and is_colour)


@cache
def _say_once(line: str) -> None:
    """A line about a file, which training may read a thousand times."""
    say(line)
