"""OBJ files and the materials beside them, as the format's appendix and exporters write them.

Colours are, in this order: a picture of the material, colours behind the vertices' places, the
material's diffuse colour.
"""

import re

import numpy as np

from flowbind_points.beside import Beside
from flowbind_points.cloud import GREY, Scan, to_unit
from flowbind_points.numbers import parse, whole
from flowbind_points.surface import Geometry, Surface, by_corner, fan, plain
from flowbind_points.texture import textured

LINE = re.compile(rb"^[ \t]*(v|vt|f|usemtl|mtllib)[ \t]+([^\r\n]*)", re.MULTILINE)
# A comment behind numbers, and what stands before it.
COMMENTED = re.compile(rb"^([ \t]*(?:v|vt|f)[ \t][^#\r\n]*)#[^\r\n]*", re.MULTILINE)


class Material:
    """A material: its diffuse colour in [0, 1], or None, and the name of its picture, or None."""

    def __init__(self) -> None:
        self.colour: list[float] | None = None
        self.picture: str | None = None


def read_obj(content: bytes, beside: Beside) -> Geometry:
    """Reads the surfaces of an OBJ file's content, or its points where it has no face.

    Comments may stand behind numbers, too, which few files have, and no appendix allows.

    Raises:
        ValueError: the content is not OBJ; gives the reason, without the file's name.
    """
    try:
        return _read(content, beside)
    except ValueError:
        plain_lines = COMMENTED.sub(rb"\1", content)
        if len(plain_lines) == len(content):
            raise

    return _read(plain_lines, beside)


class _Lines:
    """The lines of a file by kind, and what stood before each face."""

    def __init__(self) -> None:
        self.places: list[bytes] = []
        self.pictured: list[bytes] = []
        self.faces: list[bytes] = []
        self.materials: list[int] = []  # number of each face's material
        # How many more vertices than places in pictures stand before each face.
        self.ahead: list[int] = []
        self.names = {"": 0}  # of materials, with their numbers

    def add_face(self, corners: bytes, material: int) -> None:
        """A face, its corners counted from the first vertex on."""
        places = len(self.places)
        pictured = len(self.pictured)
        if b"-" in corners:
            corners = _absolute(corners, places, pictured)

        self.faces.append(corners)
        self.materials.append(material)
        self.ahead.append(places - pictured)


def _read(content: bytes, beside: Beside) -> Geometry:
    text = content.replace(b"\\\r\n", b" ")
    text = text.replace(b"\\\n", b" ")
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")

    lines = _Lines()
    materials: dict[str, Material] = {}
    remarks: list[str] = []
    material = 0
    for match in LINE.finditer(text):
        kind, rest = match.groups()
        if kind == b"v":
            lines.places.append(rest)
        elif kind == b"f":
            lines.add_face(rest, material)
        elif kind == b"vt":
            lines.pictured.append(rest)
        elif kind == b"usemtl":
            name = _word(rest)
            number = len(lines.names)
            material = lines.names.setdefault(name, number)
        else:
            name = _word(rest)
            remarks += _read_materials(name, beside, materials)

    place, colour = _vertices(lines.places)
    if not lines.faces:
        scan = Scan(place, colour)
        return Geometry(points=scan, remarks=remarks)

    surfaces = _surfaces(lines, place, colour, materials, beside)
    return Geometry(surfaces, remarks=remarks)


def _surfaces(
    lines: _Lines,
    place: np.ndarray,
    colour: np.ndarray | None,
    materials: dict[str, Material],
    beside: Beside,
) -> list[Surface]:
    """A surface for each material that faces have."""
    corners, lengths = _corners(lines.faces)
    ahead = np.repeat(lines.ahead, lengths)
    count = len(lines.pictured)
    corners[:, 1] = _own_places(corners, ahead, count)

    first, polygon = fan(lengths)
    triangles = corners[first, 0] - 1
    of_triangles = corners[first, 1] - 1
    where = _where(lines.pictured, of_triangles)
    material_of = np.array(lines.materials)
    material_of = material_of[polygon]
    surfaces = []
    for name, number in lines.names.items():
        is_part = material_of == number
        if not is_part.any():
            continue

        part = triangles[is_part]
        material = materials.get(name, Material())
        paint = plain()
        if colour is not None:
            paint = by_corner(_filled(colour), part)
        elif material.colour is not None:
            paint = plain(material.colour)

        pictured = paint
        if material.picture is not None and where is not None:
            pixels = beside.picture(material.picture)
            pictured = textured(where[is_part], pixels, paint)
        surface = Surface(place, part, paint=pictured, otherwise=paint)
        surfaces.append(surface)

    return surfaces


def _own_places(
    corners: np.ndarray,
    ahead: np.ndarray,
    count: int,
) -> np.ndarray:
    """The corners' places in a picture, from 1 on, 0 for none.

    trimesh counts the vertices of a scene's earlier objects for both numbers of a corner.
    """
    vertex, pictured = corners.T
    has = pictured > 0
    if pictured.max(initial=0) > count and (vertex[has] == pictured[has]).all():
        return np.where(has, pictured - ahead, pictured)

    return pictured


def _word(rest: bytes) -> str:
    """A name, in the encodings that are in use."""
    try:
        return rest.decode("utf-8").strip()
    except UnicodeDecodeError:
        return rest.decode("latin-1").strip()


def _read_materials(
    name: str,
    beside: Beside,
    materials: dict[str, Material],
) -> list[str]:
    """Adds the materials of a file, or of several whose names stand in one line.

    Returns remarks on it.
    """
    try:
        contents = [beside.read(name)]
    except ValueError as error:
        try:
            contents = []
            if " " in name:
                contents = [beside.read(part) for part in name.split()]
        except ValueError:
            contents = []
        if not contents:
            return [str(error)]

    material = None
    content = b"\n".join(contents)
    text = content.decode("utf-8", errors="replace")
    for line in text.splitlines():
        words = line.strip().replace("\t", " ")
        key, _, rest = words.partition(" ")
        if key == "newmtl":
            material = Material()
            materials[rest.strip()] = material
        elif material is not None and key.lower() == "map_kd" and rest.strip():
            material.picture = rest.strip()
        elif material is not None and key == "Kd":
            material.colour = _diffuse(rest)

    return []


def _diffuse(rest: str) -> list[float] | None:
    """Red, green and blue in [0, 1], of one number or three; None if it is given in another way."""
    try:
        words = rest.split()[:3]
        numbers = [float(word) for word in words]
    except ValueError:  # a spectrum's file
        return None

    if len(numbers) == 1:
        numbers = 3 * numbers
    if len(numbers) != 3:
        return None

    is_colour = all(0 <= number <= 1 for number in numbers)
    return numbers if is_colour else None


def _vertices(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    """Places and colours, both with shape (v, 3); None for the colours where no vertex has one.

    They are not numbers where a vertex has none.

    Raises:
        ValueError: there is no vertex, or one with fewer than three numbers.
    """
    numbers = parse(b"\n".join(lines))
    if not lines:
        raise ValueError("no vertices: no line begins with v")

    # The lines are nearly always alike, and need not be looked at one by one.
    count = len(lines)
    width = len(numbers) // count
    first = len(lines[0].split())
    last = len(lines[-1].split())
    if first == last == width and width * count == len(numbers):
        table = numbers.reshape(count, width)
    else:
        widths = np.array([len(line.split()) for line in lines])
        table = _uneven(numbers, widths)
        width = int(widths.min())
        if width >= 3:
            width = int(widths.max())

    if width < 3:
        raise ValueError(f"damaged: a vertex of {width} numbers")

    place = table[:, :3]
    if width < 6:
        return place, None
    return place, table[:, 3:6]


def _uneven(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Six columns of lines of different widths: places, and colours of lines that have them."""
    table = np.full((len(widths), 6), np.nan)
    begins = np.cumsum(widths) - widths
    is_coloured = widths >= 6
    for column in range(6):
        has = widths > column
        if column >= 3:
            has &= is_coloured
        places = begins[has] + column
        table[has, column] = numbers[places]

    return table


def _filled(colour: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], mid-grey where there are none."""
    return np.nan_to_num(to_unit(colour), nan=GREY)


def _where(lines: list[bytes], corners: np.ndarray) -> np.ndarray | None:
    """Where the triangles' corners are in a picture, with shape (f, 3, 2).

    Not a number where one has no place in it.
    """
    numbers = parse(b"\n".join(lines))
    count = len(lines)
    width = len(numbers) // max(1, count)
    if width < 1 or width * count != len(numbers):
        return None

    # The last row is that of corners without a place.
    table = np.full((count + 1, 2), np.nan)
    rows = numbers.reshape(count, width)
    table[:-1, : min(2, width)] = rows[:, :2]
    table[:-1, width:] = 0  # along one axis alone
    exists = (corners >= 0) & (corners < count)
    return table[np.where(exists, corners, count)]


def _absolute(face: bytes, vertices: int, pictured: int) -> bytes:
    """A face whose corners are counted from the first vertex, of one that counts from the last.

    Args:
        face: Corners, some of whose numbers are below 0.
        vertices: Number of vertices so far.
        pictured: Number of places in a picture so far.
    """
    corners = []
    for corner in face.split():
        parts = corner.split(b"/")
        counts = (vertices, pictured)
        for axis, count in enumerate(counts[: len(parts)]):
            if parts[axis].startswith(b"-"):
                number = count + 1 + int(parts[axis])
                parts[axis] = b"%d" % number

        if len(parts) > 2:  # the normal, which is not looked for
            parts[2] = parts[2].lstrip(b"-")
        corners.append(b"/".join(parts))

    return b" ".join(corners)


def _corners(faces: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of all corners, with shape (c, 2), and how many of them each face has.

    Those of the vertices, and of the places in a picture, from 1 on; 0 for none.

    Raises:
        ValueError: a corner is no number of a vertex.
    """
    counts = (len(face.split()) for face in faces)
    lengths = np.fromiter(counts, np.int64, len(faces))
    text = b"\n".join(faces)
    table = _even_corners(faces, lengths, text)
    if table is not None:
        corners = np.zeros((len(table), 2), np.int64)
        columns = table.shape[1]
        corners[:, :columns] = whole(table)
        return corners, lengths

    count = lengths.sum()
    corners = np.zeros((count, 2), np.int64)
    try:
        for number, corner in enumerate(text.split()):
            vertex, _, rest = corner.partition(b"/")
            pictured, _, _ = rest.partition(b"/")
            corners[number] = int(vertex), int(pictured or 0)
    except (ValueError, OverflowError):
        raise ValueError(
            f"damaged: a face with the corner {corner[:20].decode('latin-1')!r}"
        ) from None

    return corners, lengths


def _even_corners(
    faces: list[bytes],
    lengths: np.ndarray,
    text: bytes,
) -> np.ndarray | None:
    """The first numbers of all corners, with shape (c, 1 or 2), read at once.

    None where they do not all have as many numbers.
    """
    counts = (face.count(b"/") for face in faces)
    slashes = np.fromiter(counts, np.int64, len(faces))
    corners = max(1, int(lengths[0]))  # of the first face
    slashes_of_first = int(slashes[0])
    parts = 1 + slashes_of_first // corners
    if parts > 3 or (slashes != lengths * (parts - 1)).any():
        return None
    if b"/ " in text or b"/\n" in text:
        return None

    plain_text = text.replace(b"//", b"/0/")
    plain_text = plain_text.replace(b"/", b" ")
    numbers = parse(plain_text)
    if len(numbers) != parts * lengths.sum():
        return None

    table = numbers.reshape(-1, parts)
    return table[:, :2]
