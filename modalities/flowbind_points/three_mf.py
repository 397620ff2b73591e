"""3MF files: the objects that their build shows, in the colours that they have.

Those of triangles' corners, base materials and pictures (3MF core specification 1.3, and its
materials extension 1.2).

trimesh reads these files, too, but no colours. Numbers stay as they are written, whatever the unit.
"""

import io
import re
import struct
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple
from xml.parsers.expat import ExpatError, ParserCreate

import numpy as np

from flowbind.turns import weigh
from flowbind_points.cloud import GREY
from flowbind_points.surface import FACES, Geometry, Paint, Surface, blend, moved, plain
from flowbind_points.texture import decode, textured

LARGEST = 2**28  # bytes of an archive, unpacked
WEIGHT = 4  # bytes of memory that one of these takes
SHOWN = 2**16  # places where an object is shown, at most
MAIN = re.compile(r"3d/[^/]*\.model", re.IGNORECASE)
NOWHERE = -1  # number of a property that a corner does not have
COLOUR = re.compile("#([0-9A-Fa-f]{6})([0-9A-Fa-f]{2})?")
UNREAD = ("compositematerials", "multiproperties")  # groups that are mixtures


class Part(NamedTuple):
    """Where an object is shown: its key, and a matrix with shape (4, 4)."""

    key: tuple[str, str]
    matrix: np.ndarray


class Object:
    """An object: numbers of its mesh, one after another, and the parts that it is made of.

    Args:
        attributes: Attributes of its element, which name the properties of triangles that name
            none.
    """

    def __init__(self, attributes: dict[str, str]) -> None:
        self.group = attributes.get("pid", "")
        self.property = int(attributes.get("pindex", 0))
        self.vertices = array("d")
        # Three vertices, the number of a group, three properties of it.
        self.triangles = array("q")
        self.parts: list[Part] = []


class Group:
    """Properties that triangles may have: colours in [0, 1], or places in a picture."""

    def __init__(self, picture: str | None = None) -> None:
        self.picture = picture
        self.values: list[tuple[float, ...]] = []


class Model:
    """One part of the archive: its objects, groups of properties, pictures, and what it builds.

    Args:
        name: Name of the part.
        content: XML of the part.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.objects: dict[str, Object] = {}
        self.groups: dict[str, Group] = {}
        self.pictures: dict[str, str] = {}
        self.unread: set[str] = set()
        self.built: list[Part] = []
        self.numbers: dict[str, int] = {}  # of the groups that triangles name

        parser = ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self._start
        parser.StartDoctypeDeclHandler = _refuse_entities
        parser.Parse(content, True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        _, _, local_name = name.rpartition(" ")
        take = self._TAKE.get(local_name)
        if take is not None:
            take(self, attributes)

    def _vertex(self, attributes: dict[str, str]) -> None:
        vertex = [float(attributes[axis]) for axis in "xyz"]
        self.object.vertices.extend(vertex)

    def _triangle(self, attributes: dict[str, str]) -> None:
        corners = [int(attributes[corner]) for corner in ("v1", "v2", "v3")]

        # Where it says nothing, its first property is that of the object.
        item = self.object
        group = attributes.get("pid", item.group)
        default = item.property if group else NOWHERE
        first = int(attributes.get("p1", default))
        second = int(attributes.get("p2", first))
        third = int(attributes.get("p3", first))
        next_number = len(self.numbers)
        number = self.numbers.setdefault(group, next_number)

        row = [*corners, number, first, second, third]
        item.triangles.extend(row)

    def _object(self, attributes: dict[str, str]) -> None:
        self.object = Object(attributes)
        self.objects[attributes["id"]] = self.object

    def _component(self, attributes: dict[str, str]) -> None:
        part = self._part(attributes)
        self.object.parts.append(part)

    def _item(self, attributes: dict[str, str]) -> None:
        part = self._part(attributes)
        self.built.append(part)

    def _part(self, attributes: dict[str, str]) -> Part:
        path = self.name
        paths = [value for key, value in attributes.items() if key.endswith(" path")]
        if paths:
            path = paths[0].strip("/")

        key = (path, attributes["objectid"])
        matrix = _matrix(attributes.get("transform"))
        return Part(key, matrix)

    def _colours(self, attributes: dict[str, str]) -> None:
        self.group = Group()
        self.groups[attributes["id"]] = self.group

    def _base(self, attributes: dict[str, str]) -> None:
        colour = attributes.get("displaycolor", "")
        self.group.values.append(_colour(colour))

    def _color(self, attributes: dict[str, str]) -> None:
        colour = attributes["color"]
        self.group.values.append(_colour(colour))

    def _texture(self, attributes: dict[str, str]) -> None:
        path = attributes["path"]
        self.pictures[attributes["id"]] = path.strip("/")

    def _places(self, attributes: dict[str, str]) -> None:
        self.group = Group(attributes["texid"])
        self.groups[attributes["id"]] = self.group

    def _place(self, attributes: dict[str, str]) -> None:
        right = float(attributes["u"])
        up = float(attributes["v"])
        self.group.values.append((right, up))

    def _mixture(self, attributes: dict[str, str]) -> None:
        self.unread.add(attributes["id"])

    _TAKE: dict[str, Callable] = {  # noqa: RUF012
        "vertex": _vertex,
        "triangle": _triangle,
        "object": _object,
        "component": _component,
        "item": _item,
        "basematerials": _colours,
        "base": _base,
        "colorgroup": _colours,
        "color": _color,
        "texture2d": _texture,
        "texture2dgroup": _places,
        "tex2coord": _place,
        **dict.fromkeys(UNREAD, _mixture),
    }


def read_3mf(content: bytes) -> Geometry:
    """Reads the surfaces that a 3MF file's build shows.

    Raises:
        ValueError: the content is no whole 3MF file, or too large; gives the reason, without its
            name.
    """
    try:
        return _Archive(content).geometry()
    except (
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        OverflowError,
        ExpatError,
    ) as error:
        kind = type(error).__name__
        raise ValueError(f"damaged 3MF ({kind}: {str(error)[:60]})") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        RuntimeError,
        struct.error,
    ) as error:
        raise ValueError(f"truncated, damaged or no archive ({error})") from None


class _Archive:
    """A 3MF file, whose models and pictures are read when something names them."""

    def __init__(self, content: bytes) -> None:
        self.archive = zipfile.ZipFile(io.BytesIO(content))
        sizes = [info.file_size for info in self.archive.infolist()]
        size = sum(sizes)
        weigh(WEIGHT * size)
        if size > LARGEST:
            raise ValueError(f"an archive of {size} bytes, allowed are {LARGEST}")

        self.model = lru_cache(maxsize=None)(self._model)
        self.pixels = lru_cache(maxsize=2)(self._pixels)  # surfaces share pictures

    def geometry(self) -> Geometry:
        """The surfaces that the build shows."""
        names = filter(MAIN.fullmatch, self.archive.namelist())
        name = next(names, None)
        if name is None:
            raise ValueError("no 3MF file: an archive without a model")

        surfaces: list[Surface] = []
        remarks: list[str] = []
        mixed = "mixtures of its materials are not read, and are mid-grey"
        count = 0
        built = self.model(name).built
        for path, id, matrix in self._shown(built):
            model = self.model(path)
            item = model.objects[id]
            for surface in self._surfaces(model, item, matrix):
                count += len(surface.faces) + len(surface.vertices)
                weigh(surface.faces.nbytes + surface.vertices.nbytes)
                if count > 2 * FACES:
                    raise ValueError(f"more than {FACES} faces; simplify the mesh")
                surfaces.append(surface)

            if model.unread and not remarks:
                remarks.append(mixed)

        return Geometry(surfaces, remarks=remarks)

    def _model(self, path: str) -> Model:
        content = self.archive.read(self._name(path))
        return Model(path, content)

    def _pixels(self, path: str) -> np.ndarray:
        try:
            name = self._name(path)
            content = self.archive.read(name)
        except (KeyError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError):
            raise ValueError(f"its picture '{path[:80]}' cannot be read") from None

        return decode(content, path)

    def _name(self, path: str) -> str:
        """A member of the archive, whose names are compared without regard to case."""
        names = {name.lower(): name for name in self.archive.namelist()}
        return names[path.lower()]

    def _shown(self, built: list[Part]) -> Iterator[tuple[str, str, np.ndarray]]:
        """Model, id and matrix of each object in each place where it is shown."""
        # Each with the matrix of what it is a part of, and the keys of all that.
        waiting: list[tuple[Part, np.ndarray, tuple[tuple[str, str], ...]]] = []
        waiting += [(part, np.eye(4), ()) for part in reversed(built)]
        count = 0
        while waiting:
            part, above, within = waiting.pop()
            key = part.key
            count += 1
            if key in within:
                raise ValueError("damaged 3MF: an object that is a part of itself")
            if count > SHOWN:
                raise ValueError(f"more than {SHOWN} objects in all places; join them")

            matrix = above @ part.matrix
            yield *key, matrix

            path, id = key
            parts = self.model(path).objects[id].parts
            within = (*within, key)
            waiting += [(part, matrix, within) for part in reversed(parts)]

    def _surfaces(
        self,
        model: Model,
        item: Object,
        matrix: np.ndarray,
    ) -> Iterator[Surface]:
        """An object's own triangles, by the groups that their colours are in."""
        place = np.frombuffer(item.vertices, np.float64)
        place = moved(place.reshape(-1, 3), matrix)

        # Rows: three vertices, the number of a group, three properties of it.
        table = np.frombuffer(item.triangles, np.int64)
        table = table.reshape(-1, 7)
        group_of = table[:, 3]
        names = list(model.numbers)
        for number in np.unique(group_of):
            rows = table[group_of == number]
            faces = np.ascontiguousarray(rows[:, :3])
            group = model.groups.get(names[number])
            properties = rows[:, 4:]
            paints = self._paints(model, group, properties)
            yield Surface(place, faces, *paints)

    def _paints(
        self,
        model: Model,
        group: Group | None,
        corners: np.ndarray,
    ) -> tuple[Paint, Paint]:
        """How triangles are painted, and how without their picture.

        Args:
            model: Part of the archive that the triangles are in.
            group: Properties that they may have.
            corners: Numbers of their corners' properties, with shape (f, 3).
        """
        if group is None or not group.values:
            return plain(), plain()

        # The last row is that of corners without a property.
        count = len(group.values)
        width = 3 if group.picture is None else 2
        nowhere = (np.nan,) * width
        values = np.array([*group.values, nowhere])
        has = (corners >= 0) & (corners < count)
        of_corners = values[np.where(has, corners, count)]
        if group.picture is not None:
            path = model.pictures[group.picture]

            def pixels() -> np.ndarray:
                return self.pixels(path)

            pictured = textured(of_corners, pixels, plain())
            return pictured, plain()

        colours = np.nan_to_num(of_corners, nan=GREY)

        def paint(face: np.ndarray, share: np.ndarray) -> np.ndarray:
            return blend(colours[face], share)

        return paint, paint


def _matrix(transform: str | None) -> np.ndarray:
    """A transform of twelve numbers, which are applied to rows, as a matrix with shape (4, 4)."""
    matrix = np.eye(4)
    if transform is not None:
        numbers = np.array(transform.split(), np.float64)
        matrix[:3] = numbers.reshape(4, 3).T

    return matrix


def _colour(written: str) -> tuple[float, ...]:
    """Red, green and blue in [0, 1] of #RRGGBB or #RRGGBBAA; not numbers of something else."""
    match = COLOUR.fullmatch(written.strip())
    if match is None:
        return (np.nan,) * 3

    channels = bytes.fromhex(match[1])
    return tuple(channel / 255 for channel in channels)


def _refuse_entities(*declared: Any) -> None:
    raise ValueError("an XML file that declares entities, which is not read")
