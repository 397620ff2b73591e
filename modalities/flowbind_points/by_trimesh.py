"""Meshes by trimesh: its own objects, and files in the formats that it is trusted with.

Those are STL and COLLADA.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowbind.errors import first_line
from flowbind.libraries import Extra, absent, require
from flowbind.turns import weigh
from flowbind_points.beside import Beside
from flowbind_points.cloud import GREY, Scan, to_unit
from flowbind_points.surface import (
    FACES,
    Geometry,
    Paint,
    Surface,
    by_corner,
    by_face,
    loose,
    moved,
    plain,
)
from flowbind_points.texture import PIXELS, textured

INSTALL = Extra("points")
NEEDED = {".stl": (), ".dae": ("collada",)}  # modules beside trimesh
COPIED = 24  # bytes of memory that a vertex or a face takes where it is shown
NEEDING = "a mesh of the kind {}"
VALID = 1 << 15  # bit of an STL's attribute: a colour is there; with Magics, it is not


def read_mesh(content: bytes, suffix: str, beside: Beside) -> Geometry:
    """Reads a mesh.

    Args:
        content: Content of the file.
        suffix: Suffix of the file, which tells the format.
        beside: Files that it names.

    Raises:
        ValueError: a library that it takes is not installed or does not work, or the content is not
            a whole mesh; gives the reason, without the file's name.
    """
    needing = NEEDING.format(suffix)
    trimesh = require("trimesh", needing, INSTALL)
    for name in NEEDED[suffix]:
        require(name, needing, INSTALL)

    if suffix == ".dae" and _declares_entities(content):
        raise ValueError("an XML file that declares entities, which is not read")

    file = io.BytesIO(content)
    try:
        if suffix == ".dae":
            loaded = trimesh.exchange.dae.load_collada(file, resolver=beside)
            return _collada(loaded)
        scene = trimesh.load_scene(
            file,
            file_type=suffix[1:],
            resolver=beside,
            process=False,
        )
    except Exception as error:
        # trimesh's parsers raise whatever damaged data leads them to.
        reason = first_line(error)[:60]
        raise ValueError(
            f"truncated, damaged or not a mesh of the kind {suffix} ({reason})"
        ) from None

    if suffix == ".stl":
        return from_trimesh(scene, content[:80])
    return from_trimesh(scene)


def _declares_entities(content: bytes) -> bool:
    """Whether XML has declarations: marks that begin neither a comment nor data."""
    without_comments = content.replace(b"<!--", b"")
    return b"<!" in without_comments.replace(b"<![CDATA[", b"")


def missing_library(suffix: str) -> str:
    """What files with a suffix need that is not there; empty if nothing."""
    if suffix not in NEEDED:
        return ""

    needing = NEEDING.format(suffix)
    for name in ("trimesh", *NEEDED[suffix]):
        line = absent(name, needing, INSTALL)
        if line:
            return line

    return ""


def is_from_trimesh(value: Any) -> bool:
    """Whether an object is a mesh, a cloud or a scene of trimesh's, without importing it."""
    is_of_trimesh = any(
        kind.__module__.startswith("trimesh.") for kind in type(value).__mro__
    )
    return is_of_trimesh and hasattr(value, "bounds")


def from_trimesh(value: Any, stl: bytes = b"") -> Geometry:
    """Surfaces of a mesh or a scene of trimesh's, or points of a cloud.

    Args:
        value: Object of trimesh's.
        stl: Header of an STL, which tells how it keeps colours.

    Raises:
        ValueError: it has too many faces, shown as often as it does; gives the reason.
    """
    parts = _shown(value)
    count = 0
    for part, _ in parts:
        faces = getattr(part, "faces", ())
        count += len(faces) + len(part.vertices)
    weigh(COPIED * count)
    if count > 2 * FACES:
        raise ValueError(f"more than {FACES} faces; simplify the mesh")

    surfaces: list[Surface] = []
    scans: list[Scan] = []
    for part, matrix in parts:
        place = np.asarray(part.vertices, np.float64)
        if place.ndim != 2 or place.shape[1] != 3:  # a drawing in a plane
            continue

        place = moved(place, matrix)
        faces = getattr(part, "faces", None)
        if faces is not None and len(faces):
            faces = np.asarray(faces, np.int64)
            paints = _paints(part, faces, stl)
            surfaces.append(Surface(place, faces, *paints))
        elif hasattr(part, "colors") and len(place):
            colours = np.asarray(part.colors)
            fits = colours.shape[:1] == place.shape[:1]
            if not fits:
                scans.append(Scan(place))
            else:
                scans.append(Scan(place, colours[:, :3]))

    if surfaces or not scans:
        return Geometry(surfaces, remarks=loose(scans))

    places = [scan.place for scan in scans]
    place = np.concatenate(places)
    coloured = [scan.colour for scan in scans if scan.colour is not None]
    if len(coloured) < len(scans):
        return Geometry(points=Scan(place))

    colour = np.concatenate(coloured)
    return Geometry(points=Scan(place, colour))


def _shown(value: Any) -> list[tuple[Any, np.ndarray]]:
    """The parts of an object, each with its matrix, with shape (4, 4), as often as it is shown."""
    graph = getattr(value, "graph", None)
    if graph is None:
        return [(value, np.eye(4))]

    parts = []
    for node in graph.nodes_geometry:
        matrix, name = graph[node]
        parts.append((value.geometry[name], matrix))

    return parts


def _collada(loaded: dict[str, Any]) -> Geometry:
    """Surfaces of what trimesh reads of a COLLADA file.

    That is before it makes meshes of them, which forget colours of vertices. A material without a
    picture that is black is one without a colour, as several exporters write it.
    """
    surfaces = []
    for node in loaded["graph"]:
        part = loaded["geometry"][node["geometry"]]
        matrix = np.asarray(node["matrix"])
        place = np.asarray(part["vertices"], np.float64)
        place = moved(place, matrix)
        faces = np.asarray(part["faces"], np.int64)

        pictured = paint = plain()
        visual = part["visual"]
        if visual is not None:
            colour = visual.material.main_color[:3]
            is_black = not np.any(colour)
            pictured, paint = _of_material(visual, faces)
            if is_black and pictured is paint:
                pictured = paint = plain()

        if part["vertex_colors"] is not None:
            paint = by_corner(_colours(part["vertex_colors"]), faces)
            if visual is None:
                pictured = paint

        surface = Surface(place, faces, paint=pictured, otherwise=paint)
        surfaces.append(surface)

    return Geometry(surfaces)


def _colours(rgba: Any) -> np.ndarray:
    """Red, green and blue in [0, 1], of trimesh's colours, which have opacity too."""
    return to_unit(np.asarray(rgba)[:, :3])


def _paints(
    part: Any,
    faces: np.ndarray,
    stl: bytes,
) -> tuple[Paint, Paint]:
    """How a mesh of trimesh's is painted, and how without its picture."""
    visual = part.visual
    if visual.kind == "face":
        paint = by_face(_colours(visual.face_colors))
    elif visual.kind == "vertex":
        paint = by_corner(_colours(visual.vertex_colors), faces)
    elif visual.kind == "texture":
        return _of_material(visual, faces)
    else:
        paint = _of_attributes(part, stl)

    return paint, paint


def _of_material(visual: Any, faces: np.ndarray) -> tuple[Paint, Paint]:
    """The same, of a mesh that has a material."""
    material = visual.material
    picture = getattr(material, "baseColorTexture", None)
    picture = picture or getattr(material, "image", None)

    # The diffuse colour of the other kind of material is no factor of its picture.
    factor: Sequence[float] | np.ndarray = [1, 1, 1]
    if picture is None or hasattr(material, "baseColorFactor"):
        colour = material.main_color
        if colour is not None:
            colour = np.asarray(colour)[:3]
            factor = colour / 255

    unpictured = plain(factor)
    attributes = getattr(visual, "vertex_attributes", {})
    of_vertices = attributes.get("color")
    if of_vertices is not None and len(of_vertices):
        unpictured = by_corner(_colours(of_vertices), faces)
    if picture is None or visual.uv is None or len(visual.uv) <= faces.max():
        return unpictured, unpictured

    def pixels() -> np.ndarray:
        width, height = picture.size
        if width * height > PIXELS:
            raise ValueError(f"its picture of {width} x {height} pixels is too large")
        try:
            return np.asarray(picture.convert("RGB"))
        except Exception as error:  # Pillow opens a file at once and reads it late
            kind = type(error).__name__
            raise ValueError(f"its picture cannot be read ({kind})") from None

    where = np.asarray(visual.uv)[faces]
    return textured(where, pixels, unpictured, factor), unpictured


def _of_attributes(part: Any, stl: bytes) -> Paint:
    """Colours in the two bytes that binary STL has for each face, five bits each.

    Red is in the highest, with Magics in the lowest.
    """
    attributes = getattr(part, "face_attributes", {})
    bits = attributes.get("stl")
    if bits is None or not len(bits):
        return plain()

    is_valid = bits & VALID != 0
    low = bits & ~np.uint16(VALID)
    bits_of_channels = [low >> 10, low >> 5 & 31, low & 31]
    channels = np.stack(bits_of_channels, axis=1)
    channels = channels / 31
    if b"COLOR=" in stl:
        _, _, written = stl.partition(b"COLOR=")
        written = written[:3].ljust(3, b"\x80")
        base = np.frombuffer(written, np.uint8) / 255

        # MeshLab sets the bit where Magics leaves it unset.
        has_colour = low > 0
        if low.any() and not is_valid.all():
            has_colour = ~is_valid
        turned = channels[:, ::-1]
        colours = np.where(has_colour[:, None], turned, base)
        return by_face(colours)

    if not is_valid.any():
        return plain()

    grey = np.full(3, GREY)
    colours = np.where(is_valid[:, None], channels, grey)
    return by_face(colours)
