"""Point clouds: the solid's surface sampled uniformly by area, in colour.

Private to a cloud: a turn, a tilt, and a little blur of places and colours.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from flowbind_shapes.palette import tint
from flowbind_shapes.scene import Scenes
from flowbind_shapes.solids import RADIUS, Solid

POINTS = 1024
COLUMNS = [
    ("x", "<f4"),
    ("y", "<f4"),
    ("z", "<f4"),
    ("red", "u1"),
    ("green", "u1"),
    ("blue", "u1"),
]
VERTEX = np.dtype(COLUMNS)
_KINDS = {"<f4": "float", "u1": "uchar"}
HEADER = "\n".join(
    [
        "ply",
        "format binary_little_endian 1.0",
        f"element vertex {POINTS}",
        *(f"property {_KINDS[kind]} {name}" for name, kind in COLUMNS),
        "end_header\n",
    ]
).encode()


def sample(
    solid: Solid,
    scenes: Scenes,
    generator: np.random.Generator,
) -> np.ndarray:
    """Clouds of n scenes of one solid: vertices of dtype VERTEX and shape (n, 1024)."""
    n = len(scenes)
    numbers = generator.random((n, POINTS, 4))
    radius = RADIUS[scenes.size]
    place = solid.surface(numbers) * radius[:, None, None]

    yaw = generator.uniform(0, 2 * np.pi, size=n)
    axis = generator.uniform(0, 2 * np.pi, size=n)
    tilt = np.radians(generator.uniform(0, 25, size=n))
    place = place @ _rotation(yaw, axis, tilt)
    place += generator.normal(scale=0.006, size=place.shape)

    tinted = tint(scenes.colour, generator)
    blur = generator.normal(scale=0.03, size=place.shape)
    colour = tinted[:, None] + blur
    colour = np.clip(colour, 0, 1)
    levels = np.round(255 * colour)

    cloud = np.empty((n, POINTS), dtype=VERTEX)
    cloud["x"] = place[..., 0]
    cloud["y"] = place[..., 1]
    cloud["z"] = place[..., 2]
    cloud["red"] = levels[..., 0]
    cloud["green"] = levels[..., 1]
    cloud["blue"] = levels[..., 2]
    return cloud


def write(cloud: np.ndarray, path: Path) -> None:
    """Writes one cloud, vertices of shape (1024,), as binary little-endian PLY."""
    content = HEADER + cloud.tobytes()
    path.write_bytes(content)


def _rotation(
    yaw: np.ndarray,
    axis: np.ndarray,
    tilt: np.ndarray,
) -> np.ndarray:
    """Matrices (n, 3, 3) of a turn about z by `yaw`, then a tilt; angles (n,) in radians.

    The tilt is by `tilt`, about a horizontal axis that stands at the angle `axis`.
    """
    to_axis = _about_z(-axis)
    back = _about_z(axis)
    return _about_z(yaw) @ to_axis @ _about_x(tilt) @ back


def _about_z(angle: np.ndarray) -> np.ndarray:
    cos = np.cos(angle)
    sin = np.sin(angle)
    zero = np.zeros_like(angle)
    one = np.ones_like(angle)
    return _matrices(
        [cos, sin, zero],
        [-sin, cos, zero],
        [zero, zero, one],
    )


def _about_x(angle: np.ndarray) -> np.ndarray:
    cos = np.cos(angle)
    sin = np.sin(angle)
    zero = np.zeros_like(angle)
    one = np.ones_like(angle)
    return _matrices(
        [one, zero, zero],
        [zero, cos, sin],
        [zero, -sin, cos],
    )


def _matrices(*rows: list[np.ndarray]) -> np.ndarray:
    """Matrices (n, 3, 3) from their three rows of entries, with shape (n,) each."""
    entries = list(chain.from_iterable(rows))
    matrices = np.stack(entries, axis=-1)
    return matrices.reshape(-1, 3, 3)
