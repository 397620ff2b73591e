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
    return [f"{count} points beside its surfaces are left out"] if count else []


def draw_points(surfaces: Sequence[Surface]) -> tuple[Scan, list[str]]:
    """Draws 4,096 points, of all surfaces together uniformly by area.

    On surfaces without an area, on any triangle alike.

    Raises:
        ValueError: there is no triangle, or none whose corners are finite and there.
    """
    weight, remarks = _weights(surfaces)

    # Two numbers choose a triangle, since one of float32 is too coarse for millions; two a place.
    chance = (
        uniform(streams(key(DRAWN), torch.arange(DRAWN)), 4).numpy().astype(np.float64)
    )
    upto = np.cumsum(weight)
    fine = chance[:, 0] + chance[:, 1] * 2.0**-24
    which = np.searchsorted(upto, fine * upto[-1], side="right")
    share = _inside(chance[:, 2:])

    place = np.empty((DRAWN, 3))
    colour = np.empty((DRAWN, 3))
    begin = 0
    for surface in surfaces:
        here = np.flatnonzero((which >= begin) & (which < begin + len(surface.faces)))
        face = which[here] - begin
        begin += len(surface.faces)
        if not len(here):
            continue

        place[here] = blend(surface.vertices[surface.faces[face]], share[here])
        try:
            colour[here] = surface.paint(face, share[here])
        except ValueError as error:
            remarks.append(str(error))
            colour[here] = surface.otherwise(face, share[here])

    return Scan(place, np.clip(colour, 0, 1)), remarks


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
        remarks.append(
            f"{(~is_finite).sum()} of {count} faces have corners without a finite place, "
            "and are left out"
        )

    weight = np.where(is_finite, area, 0)
    return is_finite.astype(float) if weight.sum() == 0 else weight, remarks


def blend(corners: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Values between those of triangles' corners: (k, *).

    Args:
        corners: Values at the corners, with shape (k, 3, *).
        share: Shares of the corners in each point, with shape (k, 3).
    """
    return np.einsum("kc...,kc->k...", corners, share)


def plain(colour: Sequence[float] = (GREY, GREY, GREY)) -> Paint:
    """One colour all over."""
    return lambda face, share: np.broadcast_to(
        np.asarray(colour, np.float64), (len(face), 3)
    )


def by_face(colours: np.ndarray) -> Paint:
    """Every triangle in its own colour, with shape (f, 3) in [0, 1]."""
    return lambda face, share: colours[face]


def by_corner(colours: np.ndarray, faces: np.ndarray) -> Paint:
    """Between the colours of the vertices, with shape (v, 3) in [0, 1]."""
    return lambda face, share: blend(colours[faces[face]], share)


def fan(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts polygons into triangles around their first corners.

    One with fewer than three corners gives none.

    Args:
        lengths: Number of corners of each of n polygons, whose corners stand one after another.

    Returns:
        Numbers of the triangles' corners among all, with shape (f, 3), and of their polygons, with
        shape (f,).
    """
    count = np.maximum(lengths - 2, 0)
    polygon = np.repeat(np.arange(len(lengths)), count)
    first = (np.cumsum(lengths) - lengths)[polygon]
    within = np.arange(len(polygon)) - (np.cumsum(count) - count)[polygon]
    return np.stack([first, first + within + 1, first + within + 2], axis=1), polygon


def _areas(surface: Surface) -> np.ndarray:
    """Areas of the triangles, with shape (f,); not a number where a corner is not finite.

    Raises:
        ValueError: a corner is no vertex.
    """
    vertices, faces = surface.vertices, surface.faces
    if len(faces) and (faces.min() < 0 or faces.max() >= len(vertices)):
        raise ValueError("damaged: faces of vertices that are not there")

    area = np.empty(len(faces))
    with np.errstate(invalid="ignore", over="ignore"):
        vertices = np.where(np.abs(vertices) < FAR, vertices, np.nan)
        for start in range(0, len(faces), 2**20):  # few at once
            corners = vertices[faces[start : start + 2**20]]
            across = np.cross(
                corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
            )
            area[start : start + 2**20] = np.linalg.norm(across, axis=1) / 2

    return area


def _inside(chance: np.ndarray) -> np.ndarray:
    """Shares of three corners, with shape (k, 3), uniform on a triangle.

    Of uniform numbers, with shape (k, 2).
    """
    # In the other half of a parallelogram.
    is_outside = chance.sum(axis=1, keepdims=True) > 1
    second = np.where(is_outside, 1 - chance, chance)
    return np.concatenate([1 - second.sum(axis=1, keepdims=True), second], axis=1)
