"""Depth maps: how far the picture's solid and floor are, from the same draws as the picture.

A depth is the distance along the camera's axis, in metres (the camera is 5 m from the solid), of
what the ray through a pixel's centre meets. The floor is the plane that the picture's shadow lies
on, so every pixel has a depth.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from flowbind_shapes.scene import Scenes
from flowbind_shapes.solids import Solid
from flowbind_shapes.view import CENTRE, PIXELS, dot, draw_view, floor_lengths, trace

MILLIMETRES = 1000  # in a metre: the unit of the files


def render(
    solid: Solid,
    scenes: Scenes,
    generator: np.random.Generator,
) -> np.ndarray:
    """Depths in metres of n scenes of one solid: float32 of shape (n, 64, 64).

    A generator of the same state gives the picture of the same view.
    """
    view = draw_view(scenes, generator)
    rays = view.rays(CENTRE)
    length = floor_lengths(solid, view.eye, rays)

    owner, ray, position = trace(solid, view.eye, rays)
    along = position - view.eye[owner]
    length[owner, ray] = dot(along, rays[owner, ray])

    forward = -view.camera[:, None, 2]
    depth = length * dot(rays, forward) * view.radius[:, None]
    return depth.reshape(-1, PIXELS, PIXELS)


def write(depth: np.ndarray, path: Path) -> None:
    """Writes depths in metres, with shape (64, 64), as millimetres in a PNG of 16 bits."""
    millimetres = np.rint(MILLIMETRES * depth).astype(np.uint16)
    Image.fromarray(millimetres).save(path, format="PNG")
