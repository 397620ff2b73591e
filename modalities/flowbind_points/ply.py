"""PLY files of points and meshes: a reader for every encoding, and a writer of coloured points.

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
from flowbind_points.surface import (
    Geometry,
    Paint,
    Surface,
    by_corner,
    by_face,
    fan,
    plain,
)
from flowbind_points.texture import textured

# Both families of names in use for the same eight types, and two more that are written.
SCALARS = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "uint8": "u1",
    "int16": "i2",
    "uint16": "u2",
    "int32": "i4",
    "uint32": "u4",
    "float32": "f4",
    "float64": "f8",
    "int64": "i8",
    "uint64": "u8",
}
ENCODINGS = {
    "ascii": "=",
    "binary_little_endian": "<",
    "binary_big_endian": ">",
}
HEADED = 2**16  # bytes that a header takes at most
UNEVEN = 2**22  # rows with lists of different lengths, which Python alone walks through
CORNERS = ("vertex_indices", "vertex_index")
PICTURED = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"))
WRITTEN = [
    ("x", "<f4"),
    ("y", "<f4"),
    ("z", "<f4"),
    ("red", "u1"),
    ("green", "u1"),
    ("blue", "u1"),
]
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
    """A column of an element.

    Its name, numpy's type of its numbers, and of their number where it has lists, or None.
    """

    name: str
    kind: str
    length: str | None


class Lists(NamedTuple):
    """A column of lists: the length of each, with shape (n,), and the numbers of all in a row."""

    lengths: np.ndarray
    numbers: np.ndarray


class Element(NamedTuple):
    """Rows of a kind, as the header promises them."""

    name: str
    rows: int
    properties: list[Property]


Columns = dict[str, "np.ndarray | Lists"]


def read_ply(content: bytes, beside: Beside) -> Geometry:
    """Reads the surface of a PLY file's content, or its points where it has no faces.

    Raises:
        ValueError: the content is not PLY or ends too early; gives the reason, without the file's
            name.
    """
    encoding, elements, pictures, body = _header(content)
    if not any(element.name == "vertex" for element in elements):
        raise ValueError("no vertices")
    if any(element.name == "tristrips" and element.rows for element in elements):
        raise ValueError(
            "strips of triangles, which are not read; save its faces as triangles"
        )

    # Whatever comes after vertices and faces is not looked at.
    rows = _Rows(encoding, body)
    names = {element.name for element in elements}
    needed = {"vertex", "face"} & names
    tables: dict[str, Columns] = {}
    for element in elements:
        tables[element.name] = rows.read(element)
        if needed <= tables.keys():
            break

    vertex = _numbers(tables["vertex"])
    scan = from_named(vertex)
    faces = tables.get("face", {})
    corners = None
    for name in CORNERS:
        column = faces.get(name)
        if corners is None and isinstance(column, Lists):
            corners = column
    if corners is None or not len(corners.lengths):
        return Geometry(points=scan)

    return _mesh(scan, vertex, faces, corners, pictures, beside)


def write_points(cloud: np.ndarray, path: Path) -> None:
    """Writes points, with shape (n, 6), colours in [0, 1], as binary PLY with 8-bit colours."""
    rows = np.empty(len(cloud), WRITTEN)
    for i, (name, _) in enumerate(WRITTEN):
        column = cloud[:, i]
        if i >= 3:
            column = np.rint(255 * np.clip(column, 0, 1))
        rows[name] = column

    header = HEADER.format(count=len(cloud)).encode()
    content = header + rows.tobytes()
    with replacing(path) as partial:
        partial.write_bytes(content)


def _numbers(columns: Columns) -> dict[str, np.ndarray]:
    """The columns that are no lists."""
    numbers = {}
    for name, column in columns.items():
        if not isinstance(column, Lists):
            numbers[name] = column
    return numbers


def _mesh(
    scan: Scan,
    vertex: dict[str, np.ndarray],
    faces: Columns,
    corners: Lists,
    pictures: list[str],
    beside: Beside,
) -> Geometry:
    """Surfaces in the colours of a picture, or of the vertices, or of the faces.

    The first of these counts that the file has.
    """
    corner, polygon = fan(corners.lengths)
    triangles = whole(corners.numbers)[corner]
    vertices = scan.place.astype(np.float64)

    paint = plain()
    of_faces = _numbers(faces)
    without_places = np.empty(len(corners.lengths))
    no_places = dict.fromkeys("xyz", without_places)
    colour = from_named(of_faces | no_places).colour
    if scan.colour is not None:
        of_corners = to_unit(scan.colour)
        paint = by_corner(of_corners, triangles)
    elif colour is not None:
        of_polygons = to_unit(colour)
        paint = by_face(of_polygons[polygon])

    where = _pictured(vertex, faces, triangles, corner, polygon)
    if where is None or not pictures:
        surface = Surface(vertices, triangles, paint=paint, otherwise=paint)
        return Geometry([surface])

    # A surface for each picture.
    picture_of = np.zeros(len(triangles), int)
    if len(pictures) > 1 and "texnumber" in of_faces:
        picture_of = of_faces["texnumber"].astype(int)
        picture_of = picture_of[polygon]

    surfaces = []
    for number in np.unique(picture_of):
        is_part = picture_of == number

        unpictured = _only(paint, is_part)
        pictured = unpictured
        if 0 <= number < len(pictures):
            pixels = beside.picture(pictures[number])
            pictured = textured(where[is_part], pixels, unpictured)
        surface = Surface(
            vertices,
            triangles[is_part],
            paint=pictured,
            otherwise=unpictured,
        )
        surfaces.append(surface)

    return Geometry(surfaces)


def _only(paint: Paint, is_part: np.ndarray) -> Paint:
    """The paint of some triangles, by their numbers among these."""
    numbers = np.flatnonzero(is_part)
    return lambda face, share: paint(numbers[face], share)


def _pictured(
    vertex: dict[str, np.ndarray],
    faces: Columns,
    triangles: np.ndarray,
    corner: np.ndarray,
    polygon: np.ndarray,
) -> np.ndarray | None:
    """Where in a picture the triangles' corners are, with shape (f, 3, 2).

    By their faces, or else by the vertices; None if neither has a place in it.
    """
    where = faces.get("texcoord")
    if isinstance(where, Lists):
        return _pictured_by_faces(where, corner, polygon)

    count = len(vertex["x"])
    exist = triangles.size and 0 <= triangles.min() <= triangles.max() < count
    for names in PICTURED:
        if exist and vertex.keys() >= set(names):
            axes = [vertex[name][triangles] for name in names]
            places = np.stack(axes, axis=2)
            return places.astype(np.float64)

    return None


def _pictured_by_faces(
    where: Lists,
    corner: np.ndarray,
    polygon: np.ndarray,
) -> np.ndarray:
    """The same, of lists of two numbers a corner; not numbers where a list has others."""
    shape = (len(polygon), 3, 2)
    pairs = np.full(shape, np.nan)
    begins = np.cumsum(where.lengths) - where.lengths
    counts = np.bincount(polygon, minlength=len(where.lengths)) + 2
    is_complete = where.lengths == 2 * counts
    is_complete = is_complete[polygon]
    if is_complete.any():
        within = corner - corner[:, :1]
        begin = begins[polygon][is_complete]
        at = begin[:, None] + 2 * within[is_complete]
        first = where.numbers[at]
        second = where.numbers[at + 1]
        pairs[is_complete] = np.stack([first, second], axis=2)

    return pairs


class _Rows:
    """Rows of elements, one after another: in bytes, or as the numbers of a text.

    A cell is a byte or a number of the text; a number takes as many cells as it is wide.
    """

    def __init__(self, encoding: str, body: bytes) -> None:
        self.order = ENCODINGS[encoding]
        self.text = encoding == "ascii"
        self.body = body
        if self.text:
            self.cells = parse(body)
        else:
            self.cells = np.frombuffer(body, np.uint8)
        self.place = 0

    def read(self, element: Element) -> Columns:
        """The columns of the next element.

        Raises:
            ValueError: it is truncated or damaged.
        """
        if not element.rows or not element.properties:
            return _empty(element)

        # Lists are nearly always as long as those of the first row: then rows have one width.
        has_lists = any(property.length for property in element.properties)
        lengths: dict[str, int] = {}
        if has_lists:
            lengths = self._first_lengths(element)

        width = 0
        for name, kind, length in element.properties:
            numbers = 1
            if length:
                numbers = lengths[name]
                width += self._width(length)
            width += numbers * self._width(kind)

        size = element.rows * width
        end = self.place + size
        block = self.cells[self.place : end]
        if len(block) == size:
            rows = block.reshape(element.rows, width)
            columns = self._even(element, rows, lengths)
            if columns is not None:
                self.place += size
                return columns
        elif not has_lists:
            raise _truncated(element, len(block) // width)

        return self._uneven(element)

    def _even(
        self,
        element: Element,
        block: np.ndarray,
        lengths: dict[str, int],
    ) -> Columns | None:
        """Columns of rows of one width, with shape (n, width).

        None where their lists are not all as long as the first.
        """
        columns: Columns = {}
        first = 0
        for name, kind, length in element.properties:
            if not length:
                end = first + self._width(kind)
                numbers = self._typed(block[:, first:end], kind)
                columns[name] = numbers[:, 0]
                first = end
                continue

            begin = first + self._width(length)
            stated = block[:, first]
            if not self.text:
                stated = self._typed(block[:, first:begin], length)
                stated = stated[:, 0]
            if (stated != lengths[name]).any():
                return None

            size = self._width(kind) * lengths[name]
            end = begin + size
            numbers = self._typed(block[:, begin:end], kind)
            stated = stated.astype(np.int64)
            columns[name] = Lists(stated, numbers.reshape(-1))
            first = end

        return columns

    def _uneven(self, element: Element) -> Columns:
        """Columns of rows whose lists differ in length, which tell where the next ones begin."""
        if element.rows > UNEVEN:
            raise ValueError(
                f"{element.rows} rows with lists of different lengths, allowed are {UNEVEN}; "
                "save its faces as triangles"
            )

        # Where each property's numbers begin in each row, and how many there are.
        begins: dict[str, np.ndarray] = {}
        counts: dict[str, np.ndarray] = {}
        for property in element.properties:
            begins[property.name] = np.empty(element.rows, np.int64)
            counts[property.name] = np.ones(element.rows, np.int64)
        place = self.place
        for row in range(element.rows):
            for name, kind, length in element.properties:
                count = 1
                if length:
                    count = self._length(place, length)
                    counts[name][row] = count
                    place += self._width(length)
                begins[name][row] = place
                place += count * self._width(kind)
            if place > len(self.cells):
                raise _truncated(element, row)

        self.place = place

        columns: Columns = {}
        for name, kind, length in element.properties:
            width = self._width(kind)

            # Where its numbers begin, and end.
            count = len(self.cells) + 1
            edges = np.zeros(count, np.int8)
            ends = begins[name] + counts[name] * width
            np.add.at(edges, begins[name], 1)
            np.add.at(edges, ends, -1)

            is_number = np.cumsum(edges[:-1], dtype=np.int8)
            is_number = is_number.astype(bool)
            cells = self.cells[is_number]
            cells = cells.reshape(-1, width)
            numbers = self._typed(cells, kind)[:, 0]
            if length:
                columns[name] = Lists(counts[name], numbers)
            else:
                columns[name] = numbers

        return columns

    def _first_lengths(self, element: Element) -> dict[str, int]:
        """How long the lists of the first row are."""
        lengths: dict[str, int] = {}
        place = self.place
        for name, kind, length in element.properties:
            if length:
                lengths[name] = self._length(place, length)
                place += self._width(length)
            count = lengths.get(name, 1)
            place += count * self._width(kind)

        return lengths

    def _length(self, place: int, kind: str) -> int:
        """How long the list is whose length stands at a place."""
        width = self._width(kind)
        cells = self.cells[place : place + width]
        if len(cells) < width:
            raise ValueError("truncated: its last lists are not there")

        numbers = self._typed(cells[None], kind)
        length = int(numbers[0, 0])
        if length < 0:
            raise ValueError(f"damaged: a list of {length} numbers")

        return length

    def _width(self, kind: str) -> int:
        return 1 if self.text else int(kind[1])

    def _typed(self, cells: np.ndarray, kind: str) -> np.ndarray:
        """Numbers, with shape (n, k), of cells, with shape (n, k times their width)."""
        if not self.text:
            packed = np.ascontiguousarray(cells)
            return packed.view(self.order + kind)
        if kind[0] == "f":
            return cells

        bounds = np.iinfo(kind)
        least = bounds.min
        most = bounds.max
        if cells.size and not (cells.min() >= least and cells.max() <= most):
            raise ValueError(
                f"numbers out of the range of their type, {least} to {most}"
            )

        return cells.astype(kind)


def _empty(element: Element) -> Columns:
    """The columns of an element without rows."""
    numbers = np.empty(0)
    lists = Lists(np.empty(0, np.int64), numbers)

    columns: Columns = {}
    for property in element.properties:
        columns[property.name] = lists if property.length else numbers
    return columns


def _truncated(element: Element, rows: int) -> ValueError:
    return ValueError(
        f"truncated: {rows} of {element.rows} of its '{element.name}' are there"
    )


def _header(content: bytes) -> tuple[str, list[Element], list[str], bytes]:
    """The encoding, the elements, the names of pictures, and what follows the header."""
    head = content[:HEADED]
    if re.match(rb"ply[ \t]*\r(?!\n)", head):  # as some old computers end their lines
        head = head.replace(b"\r", b"\n")
    end = re.search(rb"^end_header[ \t\r]*\n", head, re.MULTILINE)
    if not re.match(rb"ply[ \t]*\r?\n", head) or not end:
        raise ValueError("not a PLY file, or its header is damaged")

    encoding = ""
    elements: list[Element] = []
    pictures: list[str] = []
    try:
        # Latin-1 knows every byte.
        text = head[: end.start()].decode("latin-1")
        for line in text.splitlines():
            match line.split():
                case ["format", form, _] if form in ENCODINGS:
                    encoding = form
                case ["comment", word, *_] if word.lower() == "texturefile":
                    words = line.split(maxsplit=2)
                    pictures.append(words[2].strip())
                case ["element", name, number]:
                    count = min(int(number), len(content))  # a row is a byte or more
                    elements.append(Element(name, count, []))
                    if count < 0:
                        raise ValueError
                case ["property", "list", length, kind, name]:
                    column = Property(name, SCALARS[kind], SCALARS[length])
                    elements[-1].properties.append(column)
                case ["property", kind, name]:
                    column = Property(name, SCALARS[kind], None)
                    elements[-1].properties.append(column)
    except (ValueError, KeyError, IndexError):
        raise ValueError(
            f"its PLY header has a line that cannot be read: {line.strip()[:60]!r}"
        ) from None

    if not encoding or not elements:
        raise ValueError("its PLY header names no format or no elements")

    body = content[end.end() :]
    return encoding, elements, pictures, body
