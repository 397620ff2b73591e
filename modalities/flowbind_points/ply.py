"""PLY files of points and meshes: a fast reader for every encoding of the format, and a writer of
coloured points.

Elements may stand in any order and have lists anywhere. Beside the vertices, faces are read, with
what colours them.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowbind.files import replacing
from flowbind_points.beside import Beside
from flowbind_points.cloud import Scan, from_named, to_unit
from flowbind_points.numbers import parse, whole
from flowbind_points.surface import Geometry, Paint, Surface, by_corner, by_face, fan, plain
from flowbind_points.texture import textured

SCALARS = {  # both families of names in use for the same eight types, and two more that are written
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2",
    "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
    "int64": "i8", "uint64": "u8",
}  # fmt: skip
ENCODINGS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
HEADED = 2**16  # bytes that a header takes at most
UNEVEN = 2**22  # rows with lists of different lengths, which Python alone walks through
CORNERS = ("vertex_indices", "vertex_index")
PICTURED = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
WRITTEN = np.dtype(
    [*((axis, "<f4") for axis in "xyz"), *((colour, "u1") for colour in ("red", "green", "blue"))]
)
HEADER = """ply
format binary_little_endian 1.0
element vertex {count}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


class Property(NamedTuple):
    """A column of an element: its name, numpy's type of its numbers, and of their number where it
    has lists, or None.
    """

    name: str
    kind: str
    length: str | None


class Lists(NamedTuple):
    """A column of lists: how long each is, with shape (n,), and all of their numbers, one list
    after another.
    """

    lengths: np.ndarray
    numbers: np.ndarray


class Element(NamedTuple):
    """Rows of a kind, as the header promises them."""

    name: str
    count: int
    properties: list[Property]


Columns = dict[str, "np.ndarray | Lists"]


def read_ply(content: bytes, beside: Beside) -> Geometry:
    """Reads the surface of a PLY file's content, or its points where it has no faces.

    Raises:
        ValueError: the content is not PLY or ends too early; says why, without the file's name.
    """
    encoding, elements, pictures, body = _header(content)
    if not any(element.name == "vertex" for element in elements):
        raise ValueError("no vertices")
    if any(element.name == "tristrips" and element.count for element in elements):
        raise ValueError("strips of triangles, which are not read; save its faces as triangles")

    rows, tables = _Rows(encoding, body), {}
    for element in elements:
        tables[element.name] = rows.read(element)
        if {"vertex", "face"} & {e.name for e in elements} <= tables.keys():
            break  # whatever comes after is not looked at
    vertex = {
        name: column for name, column in tables["vertex"].items() if not isinstance(column, Lists)
    }
    scan = from_named(vertex)
    faces = tables.get("face", {})
    corners = next((faces[name] for name in CORNERS if isinstance(faces.get(name), Lists)), None)
    if corners is None or not len(corners.lengths):
        return Geometry(points=scan)
    return _mesh(scan, vertex, faces, corners, pictures, beside)


def write_points(cloud: np.ndarray, path: Path) -> None:
    """Writes points, with shape (n, 6), colours in [0, 1], as binary PLY with 8-bit colours."""
    rows = np.empty(len(cloud), WRITTEN)
    for i, name in enumerate(WRITTEN.names):
        rows[name] = cloud[:, i] if i < 3 else np.rint(255 * np.clip(cloud[:, i], 0, 1))
    with replacing(path) as partial:
        partial.write_bytes(HEADER.format(count=len(cloud)).encode() + rows.tobytes())


def _mesh(
    scan: Scan, vertex: Columns, faces: Columns, corners: Lists, pictures: list[str], beside: Beside
) -> Geometry:
    """Surfaces in the colours of a picture where the file names one, else of the vertices, else of
    the faces.
    """
    corner, polygon = fan(corners.lengths)
    triangles = whole(corners.numbers)[corner]
    vertices = scan.place.astype(np.float64)

    paint = plain()
    own = {name: column for name, column in faces.items() if not isinstance(column, Lists)}
    colour = from_named(own | dict.fromkeys("xyz", np.empty(len(corners.lengths)))).colour
    if scan.colour is not None:
        paint = by_corner(to_unit(scan.colour), triangles)
    elif colour is not None:
        paint = by_face(to_unit(colour)[polygon])

    where = _pictured(vertex, faces, triangles, corner, polygon)
    if where is None or not pictures:
        return Geometry([Surface(vertices, triangles, paint, paint)])
    number = np.zeros(len(triangles), int)
    if len(pictures) > 1 and "texnumber" in own:
        number = own["texnumber"].astype(int)[polygon]
    surfaces = []
    for n in np.unique(number):
        mine = number == n
        fallback = _only(paint, mine)
        coloured = (
            textured(where[mine], beside.picture(pictures[n]), fallback)
            if 0 <= n < len(pictures)
            else fallback
        )
        surfaces.append(Surface(vertices, triangles[mine], coloured, fallback))
    return Geometry(surfaces)


def _only(paint: Paint, mine: np.ndarray) -> Paint:
    """The paint of some triangles, by their numbers among these."""
    numbers = np.flatnonzero(mine)
    return lambda face, share: paint(numbers[face], share)


def _pictured(
    vertex: Columns, faces: Columns, triangles: np.ndarray, corner: np.ndarray, polygon: np.ndarray
) -> np.ndarray | None:
    """Where in a picture the triangles' corners are, with shape (f, 3, 2), by their faces or else
    by the vertices.
    """
    where = faces.get("texcoord")
    if isinstance(where, Lists):
        pairs = np.full((len(polygon), 3, 2), np.nan)
        begins = np.cumsum(where.lengths) - where.lengths
        counts = np.bincount(polygon, minlength=len(where.lengths)) + 2
        complete = (where.lengths == 2 * counts)[polygon]
        if complete.any():
            within = corner - corner[:, :1]
            at = begins[polygon][complete, None] + 2 * within[complete]
            pairs[complete] = np.stack([where.numbers[at], where.numbers[at + 1]], axis=2)
        return pairs
    for names in PICTURED:
        there = triangles.size and 0 <= triangles.min() <= triangles.max() < len(vertex["x"])
        if there and vertex.keys() >= set(names):
            return np.stack([vertex[name][triangles] for name in names], axis=2).astype(np.float64)
    return None


class _Rows:
    """Rows of elements, one after another: in bytes, or as the numbers of a text.

    A cell is a byte or a number of the text; a number takes as many cells as it is wide.
    """

    def __init__(self, encoding: str, body: bytes) -> None:
        self.order = ENCODINGS[encoding]
        self.text = encoding == "ascii"
        self.body = body
        self.cells = parse(body) if self.text else np.frombuffer(body, np.uint8)
        self.place = 0

    def read(self, element: Element) -> Columns:
        """The columns of the next element."""
        if not element.count or not element.properties:
            empty = np.empty(0)
            lists = Lists(empty.astype(np.int64), empty)
            return {p.name: lists if p.length else empty for p in element.properties}
        lists = [property for property in element.properties if property.length]
        lengths = self._first_lengths(element) if lists else {}
        width = sum(
            self._width(p.length) + lengths[p.name] * self._width(p.kind)
            if p.length
            else self._width(p.kind)
            for p in element.properties
        )
        block = self.cells[self.place : self.place + element.count * width]
        if len(block) == element.count * width:
            columns = self._even(element, block.reshape(element.count, width), lengths)
            if columns is not None:
                self.place += len(block)
                return columns
        elif not lists:
            raise ValueError(
                f"truncated: {len(block) // width} of {element.count} of its '{element.name}' are there"
            )
        return self._uneven(element)

    def _even(self, element: Element, block: np.ndarray, lengths: dict[str, int]) -> Columns | None:
        """Columns of rows of one width, with shape (n, width); None where their lists are not all
        as long as the first.
        """
        columns, first = {}, 0
        for name, kind, length in element.properties:
            if length:
                end = first + self._width(length)
                own = (
                    block[:, first] if self.text else self._typed(block[:, first:end], length)[:, 0]
                )
                if (own != lengths[name]).any():
                    return None
                first = end
            end = first + self._width(kind) * (lengths[name] if length else 1)
            numbers = self._typed(block[:, first:end], kind)
            columns[name] = (
                Lists(own.astype(np.int64), numbers.reshape(-1)) if length else numbers[:, 0]
            )
            first = end
        return columns

    def _uneven(self, element: Element) -> Columns:
        """Columns of rows whose lists differ in length, which tell where the next ones begin."""
        if element.count > UNEVEN:
            raise ValueError(
                f"{element.count} rows with lists of different lengths, allowed are {UNEVEN}; save its faces as triangles"
            )
        begins = {
            property.name: np.empty(element.count, np.int64) for property in element.properties
        }
        counts = {
            property.name: np.ones(element.count, np.int64) for property in element.properties
        }
        place = self.place
        for row in range(element.count):
            for name, kind, length in element.properties:
                if length:
                    counts[name][row] = count = self._length(place, length)
                    place += self._width(length)
                begins[name][row] = place
                place += self._width(kind) * (count if length else 1)
            if place > len(self.cells):
                raise ValueError(
                    f"truncated: {row} of {element.count} of its '{element.name}' are there"
                )
        self.place = place

        columns: Columns = {}
        for name, kind, length in element.properties:
            edges = np.zeros(len(self.cells) + 1, np.int8)  # where its numbers begin, and end
            np.add.at(edges, begins[name], 1)
            np.add.at(edges, begins[name] + counts[name] * self._width(kind), -1)
            own = self.cells[np.cumsum(edges[:-1], dtype=np.int8).astype(bool)]
            numbers = self._typed(own.reshape(-1, self._width(kind)), kind)[:, 0]
            columns[name] = Lists(counts[name], numbers) if length else numbers
        return columns

    def _first_lengths(self, element: Element) -> dict[str, int]:
        """How long the lists of the first row are."""
        lengths, place = {}, self.place
        for name, kind, length in element.properties:
            if length:
                lengths[name] = self._length(place, length)
                place += self._width(length)
            place += self._width(kind) * lengths.get(name, 1)
        return lengths

    def _length(self, place: int, kind: str) -> int:
        """How long the list is whose length stands at a place."""
        cells = self.cells[place : place + self._width(kind)]
        if len(cells) < self._width(kind):
            raise ValueError("truncated: its last lists are not there")
        length = int(self._typed(cells[None], kind)[0, 0])
        if length < 0:
            raise ValueError(f"damaged: a list of {length} numbers")
        return length

    def _width(self, kind: str) -> int:
        return 1 if self.text else int(kind[1])

    def _typed(self, cells: np.ndarray, kind: str) -> np.ndarray:
        """Numbers, with shape (n, k), of cells, with shape (n, k times their width)."""
        if not self.text:
            return np.ascontiguousarray(cells).view(self.order + kind)
        if kind[0] == "f":
            return cells
        bounds = np.iinfo(kind)
        if cells.size and not (cells.min() >= bounds.min and cells.max() <= bounds.max):
            raise ValueError(
                f"numbers out of the range of their type, {bounds.min} to {bounds.max}"
            )
        return cells.astype(kind)


def _header(content: bytes) -> tuple[str, list[Element], list[str], bytes]:
    """The encoding, the elements, the names of pictures, and what follows the header."""
    head = content[:HEADED]
    if re.match(rb"ply[ \t]*\r(?!\n)", head):  # as some old computers end their lines
        head = head.replace(b"\r", b"\n")
    end = re.search(rb"^end_header[ \t\r]*\n", head, re.MULTILINE)
    if not re.match(rb"ply[ \t]*\r?\n", head) or not end:
        raise ValueError("not a PLY file, or its header is damaged")
    encoding, elements, pictures = "", [], []
    try:
        for line in head[: end.start()].decode("latin-1").splitlines():  # which knows every byte
            match line.split():
                case ["format", form, _] if form in ENCODINGS:
                    encoding = form
                case ["comment", word, *_] if word.lower() == "texturefile":
                    pictures.append(line.split(maxsplit=2)[2].strip())
                case ["element", name, count]:
                    elements.append(
                        Element(name, min(int(count), len(content)), [])
                    )  # a row is a byte or more
                    if elements[-1].count < 0:
                        raise ValueError
                case ["property", "list", length, kind, name]:
                    elements[-1].properties.append(Property(name, SCALARS[kind], SCALARS[length]))
                case ["property", kind, name]:
                    elements[-1].properties.append(Property(name, SCALARS[kind], None))
    except (ValueError, KeyError, IndexError):
        raise ValueError(
            f"its PLY header has a line that cannot be read: {line.strip()[:60]!r}"
        ) from None
    if not encoding or not elements:
        raise ValueError("its PLY header names no format or no elements")
    return encoding, elements, pictures, content[end.end() :]
