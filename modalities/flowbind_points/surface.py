"""Surfaces of meshes, and points drawn on them uniformly by area.

Points have the colours that the mesh has where they lie.

Shapes: v vertices, f triangles, k points.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from flowbind.draws import key, streams, uniform
from flowbind_points.cloud import FAR, GREY, Scan

DRAWN = 4096  # points of a mesh
FACES = 2**25  # of all surfaces of a mesh, in every place where they are shown

# Colours, with shape (k, 3), of points: of the triangles, with shape (k,), that they lie on, and
# the shares, with shape (k, 3), that the triangles' corners have in them.
Paint = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Surface(NamedTuple):
    """Triangles that have their colours in one way.

    Args:
        vertices: Places in world units, with shape (v, 3).
        faces: Numbers of the triangles' vertices, integers with shape (f, 3).
        paint: Colours of the points on it; raises ValueError, with the reason, where it cannot tell
            them.
        otherwise: Paint that takes its place then.
    """

    vertices: np.ndarray
    faces: np.ndarray
    paint: Paint
    otherwise: Paint


class Geometry(NamedTuple):
    """The content of a file: surfaces, or points alone; and remarks on it, as parts of a line."""

    surfaces: Sequence[Surface] = ()
    points: Scan | None = None
    remarks: Sequence[str] = ()


def to_scan(geometry: Geometry) -> tuple[Scan, list[str]]:
    """The points of a geometry.

    Those drawn on its surfaces, always the same 4,096; its own where it has no surface.

    Raises:
        ValueError: it has neither, or surfaces that are no surfaces; gives the reason, without a
            file's name.
    """
    if not geometry.surfaces:
        if geometry.points is None:
            raise ValueError("neither faces nor points")
        return geometry.points, list(geometry.remarks)

    scan, remarks = draw_points(geometry.surfaces)
    return scan, [*geometry.remarks, *remarks]


def loose(scans: Sequence[Scan]) -> list[str]:
    """What there is to be said of points beside surfaces."""
    count = sum(len(scan.place) for scan in scans)
    if not count:
        return []
    return [f"{count} points beside its surfaces are left out"]


def draw_points(surfaces: Sequence[Surface]) -> tuple[Scan, list[str]]:
    """Draws 4,096 points, of all surfaces together uniformly by area.

    On surfaces without an area, on any triangle alike.

    Raises:
        ValueError: there is no triangle, or none whose corners are finite and there.
    """
    weight, remarks = _weights(surfaces)

    # Two numbers choose a triangle, since one of float32 is too coarse for millions; two a place.
    stream = streams(key(DRAWN), torch.arange(DRAWN))
    chance = uniform(stream, 4).numpy()
    chance = chance.astype(np.float64)
    upto = np.cumsum(weight)
    fine = chance[:, 0] + chance[:, 1] * 2.0**-24
    fine = fine * upto[-1]
    which = np.searchsorted(upto, fine, side="right")
    share = _inside(chance[:, 2:])

    place = np.empty((DRAWN, 3))
    colour = np.empty((DRAWN, 3))
    begin = 0
    for surface in surfaces:
        end = begin + len(surface.faces)
        is_here = (which >= begin) & (which < end)
        here = np.flatnonzero(is_here)
        face = which[here] - begin
        begin = end
        if not len(here):
            continue

        corners = surface.faces[face]
        inside = share[here]
        vertices = surface.vertices[corners]
        place[here] = blend(vertices, inside)
        try:
            colour[here] = surface.paint(face, inside)
        except ValueError as error:
            remarks.append(str(error))
            colour[here] = surface.otherwise(face, inside)

    colour = np.clip(colour, 0, 1)
    return Scan(place, colour), remarks


def _weights(surfaces: Sequence[Surface]) -> tuple[np.ndarray, list[str]]:
    """The weights of all triangles, and a remark on those that are left out.

    Raises:
        ValueError: there is no triangle, too many, or none whose corners are finite and there.
    """
    count = sum(len(surface.faces) for surface in surfaces)
    if not count:
        raise ValueError("no faces")
    if count > FACES:
        raise ValueError(f"{count} faces, allowed are {FACES}; simplify the mesh")

    area = np.concatenate([_areas(surface) for surface in surfaces])
    is_finite = np.isfinite(area)
    if not is_finite.any():
        raise ValueError("numbers that are not finite: none of its faces has a place")

    remarks = []
    if not is_finite.all():
        missing = (~is_finite).sum()
        remarks.append(
            f"{missing} of {count} faces have corners without a finite place, "
            "and are left out"
        )

    weight = np.where(is_finite, area, 0)
    if weight.sum() == 0:
        weight = is_finite.astype(float)
    return weight, remarks


def moved(place: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points, with shape (v, 3), where a matrix with shape (4, 4) takes them."""
    turn = matrix[:3, :3]
    translation = matrix[:3, 3]
    return place @ turn.T + translation


def blend(corners: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values between those of triangles' corners: (k, *).

    Args:
        corners: Values at the corners, with shape (k, 3, *).
        share: Shares of the corners in each point, with shape (k, 3).
    """
    return np.einsum("kc...,kc->k...", corners, share)


def plain(colour: Sequence[float] | np.ndarray = (GREY, GREY, GREY)) -> Paint:
    """One colour all over."""
    everywhere = np.asarray(colour, np.float64)
    return lambda face, share: np.broadcast_to(everywhere, (len(face), 3))


def by_face(colours: np.ndarray) -> Paint:
    """Every triangle in its own colour, with shape (f, 3) in [0, 1]."""
    return lambda face, share: colours[face]


def by_corner(colours: np.ndarray, faces: np.ndarray) -> Paint:
    """Between the colours of the vertices, with shape (v, 3) in [0, 1]."""

    def paint(face: np.ndarray, share: np.ndarray) -> np.ndarray:
        of_corners = colours[faces[face]]
        return blend(of_corners, share)

    return paint


def fan(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts polygons into triangles around their first corners.

    One with fewer than three corners gives none.

    Args:
        lengths: Number of corners of each of n polygons, whose corners stand one after another.

    Returns:
        Numbers of the triangles' corners among all, with shape (f, 3), and of their polygons, with
        shape (f,).
    """
    count = np.maximum(lengths - 2, 0)  # triangles of a polygon
    numbers = np.arange(len(lengths))
    polygon = np.repeat(numbers, count)

    # Of each triangle: the first corner of its polygon, and its number within it.
    first = np.cumsum(lengths) - lengths
    first = first[polygon]
    within = np.cumsum(count) - count
    within = np.arange(len(polygon)) - within[polygon]

    second = first + within + 1
    third = second + 1
    return np.stack([first, second, third], axis=1), polygon


def _areas(surface: Surface) -> np.ndarray:
    """Areas of the triangles, with shape (f,); not a number where a corner is not finite.

    Raises:
        ValueError: a corner is no vertex.
    """
    vertices = surface.vertices
    faces = surface.faces
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError("damaged: faces of vertices that are not there")

    area = np.empty(len(faces))
    size = 2**20  # few at once
    with np.errstate(invalid="ignore", over="ignore"):
        is_near = np.abs(vertices) < FAR
        vertices = np.where(is_near, vertices, np.nan)
        for start in range(0, len(faces), size):
            end = start + size
            corners = vertices[faces[start:end]]
            first = corners[:, 0]
            one = corners[:, 1] - first
            other = corners[:, 2] - first
            across = np.cross(one, other)
            area[start:end] = np.linalg.norm(across, axis=1) / 2

    return area


def _inside(chance: np.ndarray) -> np.ndarray:
    """Shares of three corners, with shape (k, 3), uniform on a triangle.

    Of uniform numbers, with shape (k, 2).
    """
    # Those in the other half of a parallelogram are turned into this one.
    total = chance.sum(axis=1, keepdims=True)
    is_outside = total > 1
    second = np.where(is_outside, 1 - chance, chance)
    first = 1 - second.sum(axis=1, keepdims=True)
    return np.concatenate([first, second], axis=1)
