"""glTF 2.0 files, text (.gltf) and binary (.glb): their scene's triangles, or points, in colour.

trimesh reads these files, too, but takes numbers that stand for fractions as they are (vertex
colours of 16 bits, quantised places and places in pictures), and knows neither sparse accessors nor
places in pictures that are transformed.

Factors of materials and colours of vertices are linear light, pictures are not (glTF 2.0, 3.9.2 and
3.7.2.1); what comes of them is turned into what a screen shows. trimesh writes a screen's colours
in all places, so its files are taken by their word. Up is +y in these files, and stays so.
"""

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from flowbind.turns import weigh
from flowbind_points.beside import Beside
from flowbind_points.cloud import Scan, to_unit
from flowbind_points.light import from_screen, to_screen
from flowbind_points.surface import (
    FACES,
    Geometry,
    Paint,
    Surface,
    blend,
    loose,
    moved,
    plain,
)
from flowbind_points.texture import decode, textured

NUMBERS = 2**26  # of all accessors that are read, at most
WEIGHT = 40  # bytes of memory that one of these takes
SHOWN = 2**16  # nodes that show a mesh, at most
SCALARS = {
    5120: "i1",
    5121: "u1",
    5122: "i2",
    5123: "u2",
    5125: "u4",
    5126: "f4",
}
WIDTHS = {
    "SCALAR": 1,
    "VEC2": 2,
    "VEC3": 3,
    "VEC4": 4,
    "MAT2": 4,
    "MAT3": 9,
    "MAT4": 16,
}

# Modes of a primitive; the others are lines.
POINTS = 0
TRIANGLES = 4
STRIP = 5
FAN = 6

# A writer, and the grey by which it multiplies pictures where nobody gave a colour.
PYTHONIC = "mikedh/trimesh"
DEFAULT = 0.4

GLOSSY = "KHR_materials_pbrSpecularGlossiness"
TURNED = "KHR_texture_transform"
# Extensions of a primitive that hold its numbers.
PACKED = {"KHR_draco_mesh_compression"}
COMPRESSED = "needs {}, which is not read; save it without compression"
UNDERSTOOD = {
    GLOSSY,
    TURNED,
    "KHR_mesh_quantization",
    "EXT_texture_webp",
    "KHR_texture_basisu",
    "KHR_lights_punctual",
}


def read_glb(content: bytes, beside: Beside) -> Geometry:
    """Reads a GLB file's content; raises as `read_gltf` does."""
    if len(content) < 20 or content[:4] != b"glTF":
        raise ValueError("not a GLB file")

    version, length = struct.unpack_from("<II", content, 4)
    if version != 2:
        raise ValueError(f"glTF {version}, which is not read; save it as glTF 2.0")
    if length > len(content):
        present = len(content)
        raise ValueError(f"truncated: {present} of {length} bytes are there")

    chunks: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, place)
        if place + 8 + size > length:
            raise ValueError("damaged: a chunk reaches beyond the end")
        start = place + 8
        end = start + size
        chunks.setdefault(kind, content[start:end])
        place = end

    tree = chunks.get(b"JSON", b"")
    binary = chunks.get(b"BIN\0")
    return read_gltf(tree, beside, binary)


def read_gltf(
    content: bytes,
    beside: Beside,
    binary: bytes | None = None,
) -> Geometry:
    """Reads the surfaces that the scene of a glTF file shows, or its points without a surface.

    Args:
        content: JSON of the file.
        beside: Files that it names.
        binary: Numbers of a GLB file.

    Raises:
        ValueError: the content is no glTF 2.0, is damaged, or is compressed; gives the reason,
            without the file's name.
    """
    try:
        tree = json.loads(content.decode("utf-8-sig"))
        version = str(tree["asset"]["version"])
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ValueError(
            "damaged, or no glTF: it is not JSON that says which version it has"
        ) from None

    if version.split(".")[0] != "2":
        given = version[:20]
        raise ValueError(f"glTF {given}, which is not read; save it as glTF 2.0")

    _refuse_compressed(tree)

    try:
        # What is too far away has no place.
        with np.errstate(over="ignore", invalid="ignore"):
            return _Tree(tree, beside, binary).geometry()
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"damaged glTF ({type(error).__name__}: {str(error)[:60]})"
        ) from None


def _refuse_compressed(tree: dict[str, Any]) -> None:
    needed = set(tree.get("extensionsRequired", []))
    unread = []
    for name in needed - UNDERSTOOD:
        if not str(name).startswith("KHR_materials_"):
            unread.append(name)

    if unread:
        names = ", ".join(sorted(unread))
        raise ValueError(COMPRESSED.format(names))


class _Tree:
    """A glTF file's objects, which name one another by their numbers."""

    def __init__(
        self,
        tree: dict[str, Any],
        beside: Beside,
        binary: bytes | None,
    ) -> None:
        self.tree = tree
        self.beside = beside
        self.binary = binary
        self.left = NUMBERS
        generator = tree["asset"].get("generator")
        self.by_trimesh = PYTHONIC in str(generator)
        # Surfaces share buffers, numbers and pictures.
        self.buffer = lru_cache(maxsize=None)(self._buffer)
        self.accessor = lru_cache(maxsize=None)(self._accessor)
        self.pixels = lru_cache(maxsize=2)(self._pixels)

    def geometry(self) -> Geometry:
        """The surfaces that the scene shows, or its points where it has no surface."""
        surfaces: list[Surface] = []
        scans: list[Scan] = []
        count = 0
        for mesh, matrix in self._shown():
            for primitive in self._of("meshes", mesh)["primitives"]:
                part = self._primitive(primitive, matrix)
                if isinstance(part, Scan):
                    scans.append(part)
                elif part is not None:
                    count += len(part.faces) + len(part.vertices)
                    weigh(part.faces.nbytes + part.vertices.nbytes)
                    if count > 2 * FACES:
                        raise ValueError(f"more than {FACES} faces; simplify the mesh")
                    surfaces.append(part)

        if surfaces:
            return Geometry(surfaces, remarks=loose(scans))
        if not scans:
            raise ValueError("a scene with neither faces nor points")

        return Geometry(points=_joined(scans))

    def _of(self, kind: str, number: int) -> Any:
        if not isinstance(number, int) or number < 0:
            raise ValueError(
                f"damaged glTF: {number!r:.20} is no number of one of its {kind}"
            )
        return self.tree[kind][number]

    def _shown(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each mesh that the scene shows, and where: matrices with shape (4, 4)."""
        nodes = self.tree.get("nodes", [])
        if self.tree.get("scenes"):
            number = self.tree.get("scene", 0)
            scene = self._of("scenes", number)
            roots = scene.get("nodes", [])
        else:
            children = set()
            for node in nodes:
                children.update(node.get("children", []))

            roots = []
            for number in range(len(nodes)):
                if number not in children:
                    roots.append(number)
        if not nodes:
            meshes = self.tree.get("meshes", [])
            for mesh in range(len(meshes)):
                yield mesh, np.eye(4)

        # From the first root down, each node before those after it.
        visited = set()
        count = 0
        here = np.eye(4)  # one for all: there may be a million roots
        waiting = [(number, here) for number in reversed(roots)]
        while waiting:
            number, above = waiting.pop()
            if number in visited:  # no node has two parents
                raise ValueError("damaged glTF: a node that is shown twice")
            visited.add(number)

            node = self._of("nodes", number)
            matrix = above @ _placed(node)
            if "mesh" in node:
                count += 1
                if count > SHOWN:
                    raise ValueError(
                        f"more than {SHOWN} nodes that show a mesh; join them"
                    )
                # The bones of a skin tell where it is, and at rest it is where its vertices say.
                if "skin" in node:
                    yield node["mesh"], np.eye(4)
                else:
                    yield node["mesh"], matrix

            children = node.get("children", [])
            waiting += [(child, matrix) for child in reversed(children)]

    def _primitive(
        self,
        primitive: dict[str, Any],
        matrix: np.ndarray,
    ) -> Surface | Scan | None:
        """A part of a mesh in its place; None if it is neither triangles nor points."""
        mode = primitive.get("mode", TRIANGLES)
        has = primitive["attributes"]
        if "POSITION" not in has or mode not in (POINTS, TRIANGLES, STRIP, FAN):
            return None

        extensions = primitive.get("extensions", {})
        packed = sorted(PACKED & extensions.keys())
        accessor = self._of("accessors", has["POSITION"])
        if packed and not {"bufferView", "sparse"} & accessor.keys():
            raise ValueError(COMPRESSED.format(packed[0]))

        place = self.accessor(has["POSITION"])
        place = place.astype(np.float64)
        place = moved(place, matrix)
        colour = None
        if "COLOR_0" in has:
            colour = self.accessor(has["COLOR_0"])
            colour = to_unit(colour[:, :3])
        if colour is not None and len(colour) != len(place):
            raise ValueError("damaged glTF: as many colours as vertices are needed")
        if mode == POINTS:
            if colour is not None and not self.by_trimesh:
                colour = to_screen(colour)
            return Scan(place, colour)

        if "indices" in primitive:
            order = self.accessor(primitive["indices"])
            order = order[:, 0]
        else:
            order = np.arange(len(place))
        faces = _triangles(order.astype(np.int64), mode)
        if len(faces) and faces.max() >= len(place):
            raise ValueError("damaged: faces of vertices that are not there")

        material = None
        if "material" in primitive:
            material = self._of("materials", primitive["material"])
        paint, otherwise = self._paints(material, has, faces, colour)
        return Surface(place, faces, paint, otherwise)

    def _paints(
        self,
        material: dict[str, Any] | None,
        has: dict[str, int],
        faces: np.ndarray,
        colour: np.ndarray | None,
    ) -> tuple[Paint, Paint]:
        """How a surface is painted, and how without its picture.

        By the material's factor, times its picture, times the vertices' colours.
        """
        if material is None and colour is None:
            return plain(), plain()

        factor, picture = self._look(material or {})
        unpictured = self._lit(factor, colour, faces)
        if picture is None:
            return unpictured, unpictured

        # The transform may name other places than the picture does.
        extensions = picture.get("extensions", {})
        transform = extensions.get(TURNED, {})
        number = picture.get("texCoord", 0)
        number = transform.get("texCoord", number)
        name = f"TEXCOORD_{number}"
        if name not in has:
            return unpictured, unpictured

        where = self.accessor(has[name])
        where = where.astype(np.float64)
        where = _turned(where, transform)
        where = where[faces]
        # Pictures begin at their top here.
        where[..., 1] = 1 - where[..., 1]

        pixels = self._picture(picture["index"])
        white = plain([1, 1, 1])
        pictured = textured(where, pixels, white)
        paint = self._lit(factor, colour, faces, pictured)
        return paint, unpictured

    def _lit(
        self,
        factor: np.ndarray,
        colour: np.ndarray | None,
        faces: np.ndarray,
        pictured: Paint | None = None,
    ) -> Paint:
        """The product of all that gives a surface its colour, as a screen shows it.

        Args:
            factor: Factor of the material, with shape (3,).
            colour: Colours of the vertices, with shape (v, 3), if they have any.
            faces: Triangles, with shape (f, 3).
            pictured: Paint of a picture, if there is one.
        """

        def paint(face: np.ndarray, share: np.ndarray) -> np.ndarray:
            shape = (len(face), 3)
            light = np.broadcast_to(factor, shape)
            if colour is not None:
                of_corners = colour[faces[face]]
                light = light * blend(of_corners, share)
            if pictured is not None and self.by_trimesh:
                light = light * pictured(face, share)
            elif pictured is not None:
                light = light * from_screen(pictured(face, share))

            return light if self.by_trimesh else to_screen(light)

        return paint

    def _look(
        self,
        material: dict[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any] | None]:
        """A material's colour, with shape (3,), and the picture that it multiplies.

        Those of the light that it emits where it reflects none.
        """
        base = material.get("pbrMetallicRoughness", {})
        factor = base.get("baseColorFactor", [1, 1, 1])
        picture = base.get("baseColorTexture")
        extensions = material.get("extensions", {})
        glossy = extensions.get(GLOSSY)
        if glossy is not None:
            factor = glossy.get("diffuseFactor", [1, 1, 1])
            picture = glossy.get("diffuseTexture")
        factor = np.array(factor[:3], np.float64)
        factor = factor.reshape(3)

        if self.by_trimesh and (factor == DEFAULT).all() and picture is not None:
            return np.ones(3), picture

        emitted = material.get("emissiveFactor", [0, 0, 0])
        emitted = np.array(emitted, np.float64)
        emitted = emitted.reshape(3)
        if emitted.any() and not factor.any():
            return emitted, material.get("emissiveTexture")

        return factor, picture

    def _picture(self, number: int) -> Callable[[], np.ndarray]:
        """What gives the pixels of a texture, when it is called."""
        texture = self._of("textures", number)
        extensions = texture.get("extensions", {})
        webp = extensions.get("EXT_texture_webp", texture)
        source = webp.get("source", texture.get("source"))
        return lambda: self.pixels(source)

    def _pixels(self, number: int | None) -> np.ndarray:
        try:
            if number is None:
                raise ValueError("its picture has a format that is not read")
            image = self._of("images", number)
            if "bufferView" in image:
                content = bytes(self._view(image["bufferView"]))
                return decode(content, f"image {number}")

            uri = image["uri"]
            content = self._uri(uri)
            if uri.startswith("data:"):
                return decode(content, f"image {number}")
            return decode(content, uri)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(f"its picture {number} is not there") from None

    def _uri(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return self.beside.read(uri)

        try:
            _, _, encoded = uri.partition(",")
            return base64.b64decode(encoded)
        except binascii.Error:
            raise ValueError("damaged: data in its JSON that is not base 64") from None

    def _buffer(self, number: int) -> bytes:
        buffer = self._of("buffers", number)
        content = self.binary
        if "uri" in buffer:
            content = self._uri(buffer["uri"])

        needed = buffer["byteLength"]
        if content is None or len(content) < needed:
            size = len(content or b"")
            raise ValueError(
                f"truncated: {size} of {needed} bytes of a buffer are there"
            )

        return content

    def _view(self, number: int) -> memoryview:
        view = self._of("bufferViews", number)
        start = view.get("byteOffset", 0)
        length = view["byteLength"]
        content = memoryview(self.buffer(view["buffer"]))
        end = start + length
        if start < 0 or length < 0 or end > len(content):
            raise ValueError("damaged glTF: numbers beyond the end of a buffer")

        return content[start:end]

    def _accessor(self, number: int) -> np.ndarray:
        """Numbers with shape (n, width); those that stand for fractions as fractions."""
        accessor = self._of("accessors", number)
        count = accessor["count"]
        width = WIDTHS[accessor["type"]]
        kind = _kind(accessor)
        size = count * width if isinstance(count, int) else -1
        if not 0 <= size <= self.left:
            raise ValueError(f"{count!r:.30} numbers, allowed are {NUMBERS} in all")
        self.left -= size
        weigh(WEIGHT * size)
        if "bufferView" in accessor:
            view = accessor["bufferView"]
            start = accessor.get("byteOffset", 0)
            numbers = self._strided(view, start, count, width, kind)
        else:
            numbers = np.zeros((count, width), kind)
        if "sparse" in accessor:
            numbers = self._sparse(numbers.copy(), accessor["sparse"])

        if accessor.get("normalized") and kind.kind in "iu":
            full = np.iinfo(kind).max
            numbers = numbers.astype(np.float64) / full
            return np.maximum(numbers, -1)

        return numbers

    def _strided(
        self,
        view: int,
        start: int,
        count: int,
        width: int,
        kind: np.dtype,
    ) -> np.ndarray:
        size = width * kind.itemsize  # of a row, in bytes
        described = self._of("bufferViews", view)
        step = described.get("byteStride", size)
        content = self._view(view)
        if not count:
            return np.empty((0, width), kind)

        last = start + (count - 1) * step
        end = last + size
        if start < 0 or step < 0 or end > len(content):
            raise ValueError("damaged glTF: numbers beyond the end of a buffer")

        strides = (step, kind.itemsize)
        return np.ndarray((count, width), kind, content, start, strides)

    def _sparse(self, numbers: np.ndarray, sparse: dict[str, Any]) -> np.ndarray:
        """Numbers, with shape (n, width), some rows of which are others."""
        indices = sparse["indices"]
        values = sparse["values"]
        count = sparse["count"]
        width = numbers.shape[1]

        start = indices.get("byteOffset", 0)
        kind = _kind(indices)
        row = self._strided(indices["bufferView"], start, count, 1, kind)
        row = row[:, 0]
        start = values.get("byteOffset", 0)
        numbers[row] = self._strided(
            values["bufferView"],
            start,
            count,
            width,
            numbers.dtype,
        )
        return numbers


def _kind(accessor: dict[str, Any]) -> np.dtype:
    """The type of numbers; they are little-endian."""
    scalar = SCALARS[accessor["componentType"]]
    return np.dtype("<" + scalar)


def _joined(scans: list[Scan]) -> Scan:
    """All points together; where some have colours, those of the others are not numbers."""
    place = np.concatenate([scan.place for scan in scans])
    if all(scan.colour is None for scan in scans):
        return Scan(place)

    colours = []
    for scan in scans:
        if scan.colour is None:
            colours.append(np.full_like(scan.place, np.nan))
        else:
            colours.append(scan.colour)

    return Scan(place, np.concatenate(colours))


def _placed(node: dict[str, Any]) -> np.ndarray:
    """Where a node is in the one above: a matrix with shape (4, 4)."""
    if "matrix" in node:
        matrix = np.array(node["matrix"], np.float64)
        return matrix.reshape(4, 4).T  # column by column

    rotation = node.get("rotation", [0, 0, 0, 1])
    x, y, z, w = np.array(rotation, np.float64)

    # The turn that a quaternion stands for.
    xx = x * x
    yy = y * y
    zz = z * z
    xy = x * y
    xz = x * z
    yz = y * z
    xw = x * w
    yw = y * w
    zw = z * w
    turn = [
        [1 - 2 * (yy + zz), 2 * (xy - zw), 2 * (xz + yw)],
        [2 * (xy + zw), 1 - 2 * (xx + zz), 2 * (yz - xw)],
        [2 * (xz - yw), 2 * (yz + xw), 1 - 2 * (xx + yy)],
    ]

    matrix = np.eye(4)
    matrix[:3, :3] = np.array(turn) * _triple(node.get("scale", [1, 1, 1]))
    matrix[:3, 3] = _triple(node.get("translation", [0, 0, 0]))
    return matrix


def _triple(numbers: list[float]) -> np.ndarray:
    return np.array(numbers, np.float64).reshape(3)


def _triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Triangles, with shape (f, 3), of vertices in the order of a mode."""
    if mode == TRIANGLES:
        count = len(order) // 3
        return order[: 3 * count].reshape(-1, 3)

    second = order[1:-1]
    third = order[2:]
    if mode == FAN:
        count = max(0, len(order) - 2)
        first = np.broadcast_to(order[:1], count)
    else:
        first = order[:-2]
    return np.stack([first, second, third], axis=1)


def _turned(where: np.ndarray, transform: dict[str, Any]) -> np.ndarray:
    """Places in a picture, with shape (v, 2), as KHR_texture_transform moves them."""
    # Counter-clockwise as one sees the picture, whose second axis points down.
    angle = float(transform.get("rotation", 0))
    cos = np.cos(angle)
    sin = np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]])
    scale = transform.get("scale", [1, 1])
    offset = transform.get("offset", [0, 0])
    where = where * np.array(scale)
    return where @ turn.T + np.array(offset)
