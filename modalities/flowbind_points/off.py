"""OFF files: meshes in text, coloured at their vertices (COFF) or faces; points without faces."""

import re

import numpy as np

from flowbind_points.cloud import Scan, to_unit
from flowbind_points.numbers import parse, whole
from flowbind_points.surface import Geometry, Surface, by_corner, by_face, fan, plain

HEADER = re.compile(rb"\s*((?:ST|C|N|4|n)*)OFF(?![A-Za-z])")


def read_off(content: bytes) -> Geometry:
    """Reads the surface of an OFF file's content, or its points.

    Raises:
        ValueError: the content is not OFF or ends too early; gives the reason, without the file's
            name.
    """
    text = content.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    text = re.sub(rb"#[^\n]*", b"", text)

    header = HEADER.match(text)
    if not header or b"4" in header[1] or b"n" in header[1]:
        raise ValueError("not an OFF file, or one of another dimension than three")
    body = text[header.end() :]
    if re.match(rb"\s*BINARY\b", body):
        raise ValueError("binary OFF, which is not read; save it as text")

    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    vertices, faces = _counts(lines)
    end = 1 + vertices
    place, colour = _vertices(lines[1:end], header[1])
    if not faces:
        return Geometry(points=Scan(place, colour))

    rest = lines[end : end + faces]
    surface = _surface(place, colour, rest)
    return Geometry([surface])


def _counts(lines: list[bytes]) -> tuple[int, int]:
    """The numbers of vertices and faces, which the first line states and the others have.

    Raises:
        ValueError: it does not state them, or there are fewer lines.
    """
    first = lines[0] if lines else b""
    counts = whole(parse(first))
    if len(counts) < 2 or counts.min() < 0:
        raise ValueError("its OFF header has no numbers of vertices and faces")

    vertices = int(counts[0])
    faces = int(counts[1])
    rows = len(lines) - 1
    if rows < vertices + faces:
        present_vertices = min(rows, vertices)
        present_faces = max(0, rows - vertices)
        raise ValueError(
            f"truncated: {present_vertices} of {vertices} vertices, "
            f"{present_faces} of {faces} faces are there"
        )

    return vertices, faces


def _vertices(lines: list[bytes], kind: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Places and colours, both with shape (v, 3); None where there are no colours.

    Args:
        lines: Lines of the vertices.
        kind: Letters before OFF, which say what a line has.

    Raises:
        ValueError: too few numbers in a line.
    """
    table = _even(lines)
    width = table.shape[1]

    # Columns of normals in front of the colours; MeshLab, which says NC, writes them behind.
    begin = 3
    end = width
    if b"NC" in kind:
        end -= 3
    elif b"N" in kind:
        begin += 3
    if b"ST" in kind:
        end -= 2
    if lines and end < begin:
        raise ValueError(f"damaged: vertices of {width} numbers")

    place = table[:, :3]
    last = min(begin + 3, end)
    colour = table[:, begin:last]
    if colour.shape[1] < 3:
        return place, None
    return place, colour


def _surface(
    vertices: np.ndarray,
    colour: np.ndarray | None,
    lines: list[bytes],
) -> Surface:
    """The surface of faces, in the colours of its vertices or, without those, of its faces."""
    numbers = parse(b"\n".join(lines))
    counts = (len(line.split()) for line in lines)
    widths = np.fromiter(counts, np.int64, len(lines))
    begins = np.cumsum(widths) - widths
    lengths = whole(numbers[begins])
    if (lengths < 1).any() or (lengths >= widths).any():
        raise ValueError(
            "damaged or truncated: a face that has not as many corners as it says"
        )

    first, polygon = fan(lengths)
    within = np.cumsum(lengths) - lengths
    within = first - within[polygon][:, None]
    begins_of_triangles = begins[polygon]
    corners = begins_of_triangles[:, None] + 1 + within
    triangles = whole(numbers[corners])

    paint = plain()
    rest = widths - 1 - lengths  # numbers behind the corners
    if colour is not None:
        paint = by_corner(to_unit(colour), triangles)
    elif (rest >= 3).all():
        behind = begins + 1 + lengths
        where = behind[:, None] + np.arange(3)
        of_polygons = to_unit(numbers[where])
        paint = by_face(of_polygons[polygon])

    return Surface(vertices, triangles, paint=paint, otherwise=paint)


def _even(lines: list[bytes]) -> np.ndarray:
    """Numbers of lines, with shape (n, k): as many as the shortest line has."""
    numbers = parse(b"\n".join(lines))
    widths = [len(line.split()) for line in lines]
    if len(set(widths)) <= 1:
        count = len(lines)
        width = len(numbers) // max(1, count)
        return numbers.reshape(count, width)

    begins = np.cumsum(widths) - widths
    columns = np.arange(min(widths))
    return numbers[begins[:, None] + columns]
