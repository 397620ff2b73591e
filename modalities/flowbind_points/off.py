"""OFF files: meshes in text, coloured at their vertices (COFF) or faces, or points where they have
no face.
"""

import re

import numpy as np

from flowbind_points.cloud import Scan, to_unit
from flowbind_points.numbers import parse, whole
from flowbind_points.surface import Geometry, Surface, by_corner, by_face, fan, plain

HEADER = re.compile(rb"\s*((?:ST|C|N|4|n)*)OFF(?![A-Za-z])")


def read_off(content: bytes) -> Geometry:
    """Reads the surface of an OFF file's content, or its points.

    Raises:
        ValueError: the content is not OFF or ends too early; says why, without the file's name.
    """
    text = content.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    text = re.sub(rb"#[^\n]*", b"", text)
    header = HEADER.match(text)
    if not header or b"4" in header[1] or b"n" in header[1]:
        raise ValueError("not an OFF file, or one of another dimension than three")
    if re.match(rb"\s*BINARY\b", text[header.end() :]):
        raise ValueError("binary OFF, which is not read; save it as text")
    lines = [line for line in text[header.end() :].split(b"\n") if not line.isspace() and line]
    counts = whole(parse(lines[0] if lines else b""))
    if len(counts) < 2 or counts.min() < 0:
        raise ValueError("its OFF header has no numbers of vertices and faces")
    vertices, faces = int(counts[0]), int(counts[1])
    if len(lines) - 1 < vertices + faces:
        there = max(0, len(lines) - 1 - vertices)
        raise ValueError(
            f"truncated: {min(len(lines) - 1, vertices)} of {vertices} vertices, {there} of {faces} faces are there"
        )

    table = _even(lines[1 : 1 + vertices])
    # Columns of normals in front of the colours; MeshLab, which says NC, writes them behind.
    normal = 3 * (b"N" in header[1] and b"NC" not in header[1])
    end = table.shape[1] - 2 * (b"ST" in header[1]) - 3 * (b"NC" in header[1])
    if vertices and end < 3 + normal:
        raise ValueError(f"damaged: vertices of {table.shape[1]} numbers")
    place, colour = table[:, :3], table[:, 3 + normal : min(6 + normal, end)]
    colour = colour if colour.shape[1] == 3 else None
    if not faces:
        return Geometry(points=Scan(place, colour))
    return Geometry([_surface(place, colour, lines[1 + vertices : 1 + vertices + faces])])


def _surface(vertices: np.ndarray, colour: np.ndarray | None, lines: list[bytes]) -> Surface:
    numbers = parse(b"\n".join(lines))
    widths = np.fromiter((len(line.split()) for line in lines), np.int64, len(lines))
    begins = np.cumsum(widths) - widths
    lengths = whole(numbers[begins])
    if (lengths < 1).any() or (lengths >= widths).any():
        raise ValueError("damaged or truncated: a face that has not as many corners as it says")

    first, polygon = fan(lengths)
    within = first - (np.cumsum(lengths) - lengths)[polygon][:, None]
    triangles = whole(numbers[begins[polygon][:, None] + 1 + within])
    paint = plain() if colour is None else by_corner(to_unit(colour), triangles)
    rest = widths - 1 - lengths
    if colour is None and (rest >= 3).all():
        where = (begins + 1 + lengths)[:, None] + np.arange(3)
        paint = by_face(to_unit(numbers[where])[polygon])
    return Surface(vertices, triangles, paint, paint)


def _even(lines: list[bytes]) -> np.ndarray:
    """Numbers of lines, with shape (n, k): as many as the shortest line has."""
    numbers = parse(b"\n".join(lines))
    width = len(numbers) // max(1, len(lines))
    widths = [len(line.split()) for line in lines]
    if len(set(widths)) <= 1:
        return numbers.reshape(len(lines), width)
    begins = np.cumsum(widths) - widths
    return numbers[begins[:, None] + np.arange(min(widths))]
