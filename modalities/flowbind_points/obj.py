"""OBJ files and the materials beside them, as the format's appendix and the exporters in use write
them.

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


BEHIND = re.compile(rb"^([ \t]*(?:v|vt|f)[ \t][^#\r\n]*)#[^\r\n]*", re.MULTILINE)


class Material:
    """A material: its diffuse colour in [0, 1], or None, and the name of its picture, or None."""

    def __init__(self) -> None:
        self.colour: list[float] | None = None
        self.picture: str | None = None


def read_obj(content: bytes, beside: Beside) -> Geometry:
    """Reads the surfaces of an OBJ file's content, or its points where it has no face.

    Comments may stand behind numbers, too, which few files have, and no appendix allows.

    Raises:
        ValueError: the content is not OBJ; says why, without the file's name.
    """
    try:
        return _read(content, beside)
    except ValueError:
        plain_lines = BEHIND.sub(rb"\1", content)
        if len(plain_lines) == len(content):
            raise
    return _read(plain_lines, beside)


def _read(content: bytes, beside: Beside) -> Geometry:
    text = content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")
    places: list[bytes] = []
    pictured: list[bytes] = []
    faces: list[bytes] = []
    uses: list[int] = []  # material of each face
    ahead: list[int] = []  # how many more vertices than places in pictures stand before it
    materials: dict[str, Material] = {}
    names, remarks = {"": 0}, []
    used = 0
    for match in LINE.finditer(text):
        kind, rest = match.groups()
        if kind == b"v":
            places.append(rest)
        elif kind == b"f":
            faces.append(_absolute(rest, len(places), len(pictured)) if b"-" in rest else rest)
            uses.append(used)
            ahead.append(len(places) - len(pictured))
        elif kind == b"vt":
            pictured.append(rest)
        elif kind == b"usemtl":
            used = names.setdefault(_word(rest), len(names))
        else:
            remarks += _read_materials(_word(rest), beside, materials)

    place, colour = _vertices(places)
    if not faces:
        return Geometry(points=Scan(place, colour), remarks=remarks)
    corners, lengths = _corners(faces)
    has = corners[:, 1] > 0
    if corners[:, 1].max(initial=0) > len(pictured) and (corners[has, 0] == corners[has, 1]).all():
        corners[has, 1] -= np.repeat(ahead, lengths)[
            has
        ]  # trimesh counts the vertices of a scene's earlier objects for both
    first, polygon = fan(lengths)
    triangles = corners[first, 0] - 1
    where = _where(pictured, corners[first, 1] - 1)
    use = np.array(uses)[polygon]
    surfaces = []
    for name, number in names.items():
        mine = use == number
        if mine.any():
            own, paint = triangles[mine], plain()
            material = materials.get(name, Material())
            if colour is not None:
                paint = by_corner(_filled(colour), own)
            elif material.colour is not None:
                paint = plain(material.colour)
            coloured = paint
            if material.picture is not None and where is not None:
                coloured = textured(where[mine], beside.picture(material.picture), paint)
            surfaces.append(Surface(place, own, coloured, paint))
    return Geometry(surfaces, remarks=remarks)


def _word(rest: bytes) -> str:
    """A name, in the encodings that are in use."""
    try:
        return rest.decode("utf-8").strip()
    except UnicodeDecodeError:
        return rest.decode("latin-1").strip()


def _read_materials(name: str, beside: Beside, materials: dict[str, Material]) -> list[str]:
    """Adds the materials of a file, or of several whose names stand in one line. Returns what there
    is to be said of it.
    """
    try:
        contents = [beside.read(name)]
    except ValueError as error:
        try:
            contents = [beside.read(part) for part in name.split()] if " " in name else []
        except ValueError:
            contents = []
        if not contents:
            return [str(error)]
    material = None
    for line in b"\n".join(contents).decode("utf-8", errors="replace").splitlines():
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        if key == "newmtl":
            material = materials[rest.strip()] = Material()
        elif material is not None and key.lower() == "map_kd" and rest.strip():
            material.picture = rest.strip()
        elif material is not None and key == "Kd":
            material.colour = _diffuse(rest)
    return []


def _diffuse(rest: str) -> list[float] | None:
    """Red, green and blue in [0, 1], of one number or three; None where it is given in another way.
    """
    try:
        numbers = [float(word) for word in rest.split()[:3]]
    except ValueError:  # a spectrum's file
        return None
    colour = numbers * 3 if len(numbers) == 1 else numbers
    return colour if len(colour) == 3 and all(0 <= number <= 1 for number in colour) else None


def _vertices(lines: list[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
    """Places, with shape (v, 3), and colours, with shape (v, 3), not a number where a vertex has
    none; or None.

    Raises:
        ValueError: there is no vertex, or one with fewer than three numbers.
    """
    numbers = parse(b"\n".join(lines))
    if not lines:
        raise ValueError("no vertices: no line begins with v")
    width = len(numbers) // len(lines)
    even = len(lines[0].split()) == len(lines[-1].split()) == width
    if even and width * len(lines) == len(numbers):
        table = numbers.reshape(len(lines), width)
    else:
        widths = np.array([len(line.split()) for line in lines])
        table = np.full((len(lines), 6), np.nan)
        begins = np.cumsum(widths) - widths
        for column in range(6):
            has = (widths > column) & ((column < 3) | (widths >= 6))
            table[has, column] = numbers[begins[has] + column]
        width = int(widths.min()) if widths.min() < 3 else int(widths.max())
    if width < 3:
        raise ValueError(f"damaged: a vertex of {width} numbers")
    return table[:, :3], table[:, 3:6] if width >= 6 else None


def _filled(colour: np.ndarray) -> np.ndarray:
    """Colours in [0, 1], mid-grey where there are none."""
    return np.nan_to_num(to_unit(colour), nan=GREY)


def _where(lines: list[bytes], corners: np.ndarray) -> np.ndarray | None:
    """Where the triangles' corners are in a picture, with shape (f, 3, 2); not a number where one
    has no place in it.
    """
    numbers = parse(b"\n".join(lines))
    width = len(numbers) // max(1, len(lines))
    if width < 1 or width * len(lines) != len(numbers):
        return None
    table = np.full((len(lines) + 1, 2), np.nan)
    table[:-1, : min(2, width)] = numbers.reshape(len(lines), width)[:, :2]
    table[:-1, width:] = 0  # along one axis alone
    return table[np.where((corners >= 0) & (corners < len(lines)), corners, len(lines))]


def _absolute(face: bytes, vertices: int, pictured: int) -> bytes:
    """A face whose corners may be counted from the last vertex back, with corners that are counted
    from the first.
    """
    corners = []
    for corner in face.split():
        parts = corner.split(b"/")
        for axis, count in enumerate((vertices, pictured)[: len(parts)]):
            if parts[axis].startswith(b"-"):
                parts[axis] = b"%d" % (count + 1 + int(parts[axis]))
        corners.append(
            b"/".join(part.lstrip(b"-") if axis == 2 else part for axis, part in enumerate(parts))
        )
    return b" ".join(corners)


def _corners(faces: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the vertices and of the places in a picture (0 for none) of all corners, with
    shape (c, 2), from 1 on;
    and how many of them each face has.

    Raises:
        ValueError: a corner is no number of a vertex.
    """
    lengths = np.fromiter((len(face.split()) for face in faces), np.int64, len(faces))
    slashes = np.fromiter((face.count(b"/") for face in faces), np.int64, len(faces))
    text = b"\n".join(faces)
    parts = 1 + int(slashes[0]) // max(1, int(lengths[0]))
    even = (
        parts <= 3
        and (slashes == lengths * (parts - 1)).all()
        and b"/ " not in text
        and b"/\n" not in text
    )
    if even:
        numbers = parse(text.replace(b"//", b"/0/").replace(b"/", b" "))
        even = len(numbers) == parts * lengths.sum()
    if even:
        table = numbers.reshape(-1, parts)
        corners = np.zeros((len(table), 2), np.int64)
        corners[:, : min(2, parts)] = whole(table[:, :2])
        return corners, lengths

    corners = np.zeros((lengths.sum(), 2), np.int64)
    try:
        for number, corner in enumerate(text.split()):
            vertex, _, rest = corner.partition(b"/")
            corners[number] = int(vertex), int(rest.partition(b"/")[0] or 0)
    except (ValueError, OverflowError):
        raise ValueError(
            f"damaged: a face with the corner {corner[:20].decode('latin-1')!r}"
        ) from None
    return corners, lengths
