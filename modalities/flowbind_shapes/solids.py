"""The six solids at unit size: what each needs to be seen and to be sampled.

They lie within about 1 of the origin, z up. `distance` is the signed distance to the surface or,
near some edges, a lower bound of it: enough for sphere tracing, soft shadows and normals. `surface`
maps uniform numbers to points that are uniform by area.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# What a solid of unit size is scaled by: small, medium, large.
RADIUS = np.array([0.45, 0.67, 1.0])
SPHERE_RADIUS = 0.85
CUBE_HALF = 0.58
CYLINDER_RADIUS = 0.55
CYLINDER_HALF = 0.75  # of its height
CONE_RADIUS = 0.75
CONE_BOTTOM = -0.65
CONE_TOP = 0.95
TORUS_RING = 0.68  # from the centre to that of the tube
TORUS_TUBE = 0.27
STAR_OUTER = 1.0
STAR_INNER = 0.45
STAR_HALF = 0.22  # of its height

Array = np.ndarray


@dataclass(frozen=True)
class Solid:
    """A solid.

    Args:
        distance: Signed distance of places x, y, z, arrays of any one shape.
        surface: Points (..., 3) of its surface from numbers (..., 4) in [0, 1).
        bottom: Height of the plane it stands on.
    """

    distance: Callable[[Array, Array, Array], Array]
    surface: Callable[[Array], Array]
    bottom: float


def _sphere_distance(x: Array, y: Array, z: Array) -> Array:
    radius = np.sqrt(x * x + y * y + z * z)
    return radius - SPHERE_RADIUS


def _sphere_surface(u: Array) -> Array:
    z = 2 * u[..., 0] - 1  # Archimedes: height is uniform on a sphere
    radius = np.sqrt(1 - z * z)
    return SPHERE_RADIUS * _turn(radius, z, u[..., 1])


def _cube_distance(x: Array, y: Array, z: Array) -> Array:
    x = np.abs(x) - CUBE_HALF
    y = np.abs(y) - CUBE_HALF
    z = np.abs(z) - CUBE_HALF
    inside = np.minimum(np.maximum(np.maximum(x, y), z), 0)

    x = np.maximum(x, 0)
    y = np.maximum(y, 0)
    z = np.maximum(z, 0)
    outside = np.sqrt(x**2 + y**2 + z**2)
    return outside + inside


def _cube_surface(u: Array) -> Array:
    face = (6 * u[..., 2]).astype(int)
    sign = (face % 2) * 2.0 - 1
    across = 2 * u[..., 0] - 1
    along = 2 * u[..., 1] - 1
    square = np.stack([across, along, sign], axis=-1)

    axis = face[..., None] // 2
    order = (np.arange(3) + axis) % 3
    return CUBE_HALF * np.take_along_axis(square, order, axis=-1)


def _cylinder_distance(x: Array, y: Array, z: Array) -> Array:
    radius = np.sqrt(x * x + y * y)
    return _capped(radius - CYLINDER_RADIUS, np.abs(z) - CYLINDER_HALF)


def _cylinder_surface(u: Array) -> Array:
    mantle = 2 * CYLINDER_RADIUS * CYLINDER_HALF  # areas, in units of 2 pi
    end = CYLINDER_RADIUS**2 / 2
    part = _part(u[..., 2], [mantle, end, end])
    along = 2 * u[..., 0] - 1
    height = CYLINDER_HALF * np.choose(part, [along, -1.0, 1.0])

    share = np.sqrt(u[..., 0])
    outwards = np.where(part == 0, 1.0, share)
    return _turn(CYLINDER_RADIUS * outwards, height, u[..., 1])


_CONE_HEIGHT = CONE_TOP - CONE_BOTTOM
_CONE_SLANT = float(np.hypot(CONE_RADIUS, _CONE_HEIGHT))


def _cone_distance(x: Array, y: Array, z: Array) -> Array:
    radius = np.sqrt(x * x + y * y)
    side = radius * _CONE_HEIGHT + (z - CONE_TOP) * CONE_RADIUS
    side = side / _CONE_SLANT
    return np.maximum(side, CONE_BOTTOM - z)


def _cone_surface(u: Array) -> Array:
    part = _part(u[..., 2], [_CONE_SLANT, CONE_RADIUS])
    # The share of the radius: on the base and on the mantle area grows with its square.
    share = np.sqrt(u[..., 0])
    on_mantle = CONE_TOP - share * _CONE_HEIGHT
    height = np.where(part == 0, on_mantle, CONE_BOTTOM)
    return _turn(share * CONE_RADIUS, height, u[..., 1])


def _torus_distance(x: Array, y: Array, z: Array) -> Array:
    radius = np.sqrt(x * x + y * y)
    ring = radius - TORUS_RING
    return np.sqrt(ring * ring + z * z) - TORUS_TUBE


def _torus_surface(u: Array) -> Array:
    # Around the tube the area density is 1 + k cos(angle), k = tube / ring: reflect a uniform angle
    # with the chance that turns the uniform density into this one.
    angle = 2 * np.pi * u[..., 0]
    density = 1 + TORUS_TUBE / TORUS_RING * np.cos(angle)
    reflects = 2 * u[..., 3] > density
    angle = np.where(reflects, np.pi - angle, angle)
    radius = TORUS_RING + TORUS_TUBE * np.cos(angle)
    height = TORUS_TUBE * np.sin(angle)
    return _turn(radius, height, u[..., 1])


# One of the ten edges runs from the tip to the notch; the other nine are its mirror images.
_TIP = np.array([0.0, STAR_OUTER])
_NOTCH = STAR_INNER * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)])
_TO_NOTCH = _NOTCH - _TIP
_EDGE = float(np.hypot(*_TO_NOTCH))
_ALONG_X, _ALONG_Y = (_TO_NOTCH / _EDGE).tolist()
# Normals of two mirror lines.
_MIRRORS = [
    (math.cos(angle), -math.sin(angle)) for angle in (math.pi / 5, math.pi * 4 / 5)
]


def _star_distance(x: Array, y: Array, z: Array) -> Array:
    # Every place is mirrored to the one edge, and measured from its tip.
    x = np.abs(x)
    for normal_x, normal_y in _MIRRORS:
        height = x * normal_x + y * normal_y
        beyond = 2 * np.maximum(height, 0)
        x = x - beyond * normal_x
        y = y - beyond * normal_y
    x = np.abs(x)
    y = y - STAR_OUTER

    nearest = x * _ALONG_X + y * _ALONG_Y
    nearest = np.clip(nearest, 0, _EDGE)  # along the edge
    across = x * -_ALONG_Y + y * _ALONG_X
    x = x - nearest * _ALONG_X
    y = y - nearest * _ALONG_Y
    edge = np.copysign(np.hypot(x, y), across)
    return _capped(edge, np.abs(z) - STAR_HALF)


def _star_surface(u: Array) -> Array:
    triangle = float(_TIP[1] * _NOTCH[0]) / 2  # centre, tip, notch
    rim = 2 * STAR_HALF * _EDGE
    part = _part(u[..., 2], [rim, triangle, triangle])

    # On the one edge's side, or in the triangle between it and the centre.
    share = np.sqrt(u[..., 3])
    outwards = np.where(part == 0, 1.0, share)
    along_edge = u[..., :1] * _TO_NOTCH
    on_edge = _TIP + along_edge
    flat = outwards[..., None] * on_edge
    along = 2 * u[..., 3] - 1
    height = STAR_HALF * np.choose(part, [along, -1.0, 1.0])

    # Then on one of all ten: five turns, each with a mirror image.
    tenth = 10 * u[..., 1]
    angle = 2 * np.pi / 5 * np.floor(tenth / 2)
    cos = np.cos(angle)
    sin = np.sin(angle)
    is_mirrored = tenth.astype(int) % 2 != 0
    side = np.where(is_mirrored, -1, 1)

    x = side * flat[..., 0]
    y = flat[..., 1]
    turned_x = cos * x - sin * y
    turned_y = sin * x + cos * y
    return np.stack([turned_x, turned_y, height], axis=-1)


def _capped(across: Array, along: Array) -> Array:
    """The distance to a prism from the distances to its outline and to its end planes."""
    inside = np.minimum(np.maximum(across, along), 0)
    across = np.maximum(across, 0)
    along = np.maximum(along, 0)
    outside = np.sqrt(across**2 + along**2)
    return outside + inside


def _turn(radius: Array, height: Array, turn: Array) -> Array:
    """Points (..., 3) on circles about the z axis.

    Args:
        radius: Distance from the axis.
        height: Height above the origin.
        turn: Share of a full turn, in [0, 1).
    """
    angle = 2 * np.pi * turn
    x = radius * np.cos(angle)
    y = radius * np.sin(angle)
    axes = np.broadcast_arrays(x, y, height)
    return np.stack(axes, axis=-1)


def _part(u: Array, areas: list[float]) -> Array:
    """Which part of a surface each uniform number falls on, in proportion to the areas."""
    ends = np.cumsum(areas)[:-1] / sum(areas)
    return np.searchsorted(ends, u, side="right")


SOLIDS = {
    "sphere": Solid(_sphere_distance, _sphere_surface, bottom=-SPHERE_RADIUS),
    "cube": Solid(_cube_distance, _cube_surface, bottom=-CUBE_HALF),
    "cylinder": Solid(_cylinder_distance, _cylinder_surface, bottom=-CYLINDER_HALF),
    "cone": Solid(_cone_distance, _cone_surface, bottom=CONE_BOTTOM),
    "torus": Solid(_torus_distance, _torus_surface, bottom=-TORUS_TUBE),
    "star": Solid(_star_distance, _star_surface, bottom=-STAR_HALF),
}
