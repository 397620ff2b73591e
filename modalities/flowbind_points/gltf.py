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
from flowbind_points.surface import FACES, Geometry, Paint, Surface, blend, loose, plain
from flowbind_points.texture import decode, textured

NUMBERS = 2**26  # of all accessors that are read, at most
WEIGHT = 40  # bytes of memory that one of these takes
SHOWN = 2**16  # nodes that show a mesh, at most
SCALARS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
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
        raise ValueError(f"truncated: {len(content)} of {length} bytes are there")

    chunks: dict[bytes, bytes] = {}
    place = 12
    while place + 8 <= length:
        size, kind = struct.unpack_from("<I4s", content, place)
        if place + 8 + size > length:
            raise ValueError("damaged: a chunk reaches beyond the end")
        chunks.setdefault(kind, content[place + 8 : place + 8 + size])
        place += 8 + size

    return read_gltf(chunks.get(b"JSON", b""), beside, chunks.get(b"BIN\0"))


def read_gltf(content: bytes, beside: Beside, binary: bytes | None = None) -> Geometry:
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
        raise ValueError(f"glTF {version[:20]}, which is not read; save it as glTF 2.0")

    needed = set(tree.get("extensionsRequired", [])) - UNDERSTOOD
    unread = sorted(
        name for name in needed if not str(name).startswith("KHR_materials_")
    )
    if unread:
        raise ValueError(COMPRESSED.format(", ".join(unread)))

    try:
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is too far away has no place
            return _Tree(tree, beside, binary).geometry()
    except (KeyError, IndexError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"damaged glTF ({type(error).__name__}: {str(error)[:60]})"
        ) from None


class _Tree:
    """A glTF file's objects, which name one another by their numbers."""

    def __init__(
        self, tree: dict[str, Any], beside: Beside, binary: bytes | None
    ) -> None:
        self.tree = tree
        self.beside = beside
        self.binary = binary
        self.left = NUMBERS
        self.by_trimesh = PYTHONIC in str(tree["asset"].get("generator"))
        self.buffer = lru_cache(maxsize=None)(self._buffer)
        self.accessor = lru_cache(maxsize=None)(self._accessor)
        self.pixels = lru_cache(maxsize=2)(self._pixels)  # surfaces share pictures

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
            roots = self._of("scenes", self.tree.get("scene", 0)).get("nodes", [])
        else:
            children = set()
            for node in nodes:
                children.update(node.get("children", []))
            roots = [number for number in range(len(nodes)) if number not in children]
        if not nodes:
            yield from (
                (mesh, np.eye(4)) for mesh in range(len(self.tree.get("meshes", [])))
            )

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
                yield node["mesh"], np.eye(4) if "skin" in node else matrix

            waiting += [(child, matrix) for child in reversed(node.get("children", []))]

    def _primitive(
        self, primitive: dict[str, Any], matrix: np.ndarray
    ) -> Surface | Scan | None:
        """A part of a mesh in its place; None if it is neither triangles nor points."""
        mode = primitive.get("mode", TRIANGLES)
        has = primitive["attributes"]
        if "POSITION" not in has or mode not in (POINTS, TRIANGLES, STRIP, FAN):
            return None

        packed = sorted(PACKED & primitive.get("extensions", {}).keys())
        accessor = self._of("accessors", has["POSITION"])
        if packed and not {"bufferView", "sparse"} & accessor.keys():
            raise ValueError(COMPRESSED.format(packed[0]))

        place = self.accessor(has["POSITION"]).astype(np.float64)
        place = place @ matrix[:3, :3].T + matrix[:3, 3]
        colour = (
            to_unit(self.accessor(has["COLOR_0"])[:, :3]) if "COLOR_0" in has else None
        )
        if colour is not None and len(colour) != len(place):
            raise ValueError("damaged glTF: as many colours as vertices are needed")
        if mode == POINTS:
            return Scan(
                place,
                colour if colour is None or self.by_trimesh else to_screen(colour),
            )

        if "indices" in primitive:
            order = self.accessor(primitive["indices"])[:, 0]
        else:
            order = np.arange(len(place))
        faces = _triangles(order.astype(np.int64), mode)
        if len(faces) and faces.max() >= len(place):
            raise ValueError("damaged: faces of vertices that are not there")

        material = (
            self._of("materials", primitive["material"])
            if "material" in primitive
            else None
        )
        return Surface(place, faces, *self._paints(material, has, faces, colour))

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

        turned = picture.get("extensions", {}).get(TURNED, {})
        name = f"TEXCOORD_{turned.get('texCoord', picture.get('texCoord', 0))}"
        if name not in has:
            return unpictured, unpictured

        where = _turned(self.accessor(has[name]).astype(np.float64), turned)[faces]
        where[..., 1] = 1 - where[..., 1]  # pictures begin at their top here
        pictured = textured(where, self._picture(picture["index"]), plain([1, 1, 1]))
        return self._lit(factor, colour, faces, pictured), unpictured

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
            light = np.broadcast_to(factor, (len(face), 3))
            if colour is not None:
                light = light * blend(colour[faces[face]], share)
            if self.by_trimesh:
                return light if pictured is None else light * pictured(face, share)
            if pictured is not None:
                light = light * from_screen(pictured(face, share))

            return to_screen(light)

        return paint

    def _look(
        self, material: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any] | None]:
        """A material's colour, with shape (3,), and the picture that it multiplies.

        Those of the light that it emits where it reflects none.
        """
        base = material.get("pbrMetallicRoughness", {})
        factor = base.get("baseColorFactor", [1, 1, 1])
        picture = base.get("baseColorTexture")
        glossy = material.get("extensions", {}).get(GLOSSY)
        if glossy is not None:
            factor = glossy.get("diffuseFactor", [1, 1, 1])
            picture = glossy.get("diffuseTexture")
        factor = np.array(factor[:3], np.float64).reshape(3)

        if self.by_trimesh and (factor == DEFAULT).all() and picture is not None:
            return np.ones(3), picture

        emitted = np.array(
            material.get("emissiveFactor", [0, 0, 0]), np.float64
        ).reshape(3)
        if emitted.any() and not factor.any():
            return emitted, material.get("emissiveTexture")

        return factor, picture

    def _picture(self, number: int) -> Callable[[], np.ndarray]:
        """What gives the pixels of a texture, when it is called."""
        texture = self._of("textures", number)
        webp = texture.get("extensions", {}).get("EXT_texture_webp", texture)
        source = webp.get("source", texture.get("source"))
        return lambda: self.pixels(source)

    def _pixels(self, number: int | None) -> np.ndarray:
        try:
            if number is None:
                raise ValueError("its picture has a format that is not read")
            image = self._of("images", number)
            if "bufferView" in image:
                return decode(bytes(self._view(image["bufferView"])), f"image {number}")

            uri = image["uri"]
            name = f"image {number}" if uri.startswith("data:") else uri
            return decode(self._uri(uri), name)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(f"its picture {number} is not there") from None

    def _uri(self, uri: str) -> bytes:
        if not uri.startswith("data:"):
            return self.beside.read(uri)

        try:
            return base64.b64decode(uri.partition(",")[2])
        except binascii.Error:
            raise ValueError("damaged: data in its JSON that is not base 64") from None

    def _buffer(self, number: int) -> bytes:
        buffer = self._of("buffers", number)
        content = self._uri(buffer["uri"]) if "uri" in buffer else self.binary
        if content is None or len(content) < buffer["byteLength"]:
            raise ValueError(
                f"truncated: {len(content or b'')} of {buffer['byteLength']} bytes of a buffer "
                "are there"
            )

        return content

    def _view(self, number: int) -> memoryview:
        view = self._of("bufferViews", number)
        start = view.get("byteOffset", 0)
        length = view["byteLength"]
        content = memoryview(self.buffer(view["buffer"]))
        if start < 0 or length < 0 or start + length > len(content):
            raise ValueError("damaged glTF: numbers beyond the end of a buffer")

        return content[start : start + length]

    def _accessor(self, number: int) -> np.ndarray:
        """Numbers with shape (n, width); those that stand for fractions as fractions."""
        accessor = self._of("accessors", number)
        count = accessor["count"]
        width = WIDTHS[accessor["type"]]
        kind = np.dtype("<" + SCALARS[accessor["componentType"]])
        if not isinstance(count, int) or not 0 <= count * width <= self.left:
            raise ValueError(f"{count!r:.30} numbers, allowed are {NUMBERS} in all")

        self.left -= count * width
        weigh(WEIGHT * count * width)
        if "bufferView" in accessor:
            start = accessor.get("byteOffset", 0)
            numbers = self._strided(accessor["bufferView"], start, count, width, kind)
        else:
            numbers = np.zeros((count, width), kind)
        if "sparse" in accessor:
            numbers = self._sparse(numbers.copy(), accessor["sparse"])

        if accessor.get("normalized") and kind.kind in "iu":
            return np.maximum(numbers.astype(np.float64) / np.iinfo(kind).max, -1)

        return numbers

    def _strided(
        self, view: int, start: int, count: int, width: int, kind: np.dtype
    ) -> np.ndarray:
        step = self._of("bufferViews", view).get("byteStride", width * kind.itemsize)
        content = self._view(view)
        if not count:
            return np.empty((0, width), kind)

        end = start + (count - 1) * step + width * kind.itemsize
        if start < 0 or step < 0 or end > len(content):
            raise ValueError("damaged glTF: numbers beyond the end of a buffer")

        return np.ndarray((count, width), kind, content, start, (step, kind.itemsize))

    def _sparse(self, numbers: np.ndarray, sparse: dict[str, Any]) -> np.ndarray:
        """Numbers, with shape (n, width), some rows of which are others."""
        indices = sparse["indices"]
        values = sparse["values"]
        count = sparse["count"]
        kind = np.dtype("<" + SCALARS[indices["componentType"]])
        width = numbers.shape[1]

        start = indices.get("byteOffset", 0)
        row = self._strided(indices["bufferView"], start, count, 1, kind)[:, 0]
        start = values.get("byteOffset", 0)
        numbers[row] = self._strided(
            values["bufferView"], start, count, width, numbers.dtype
        )
        return numbers


def _joined(scans: list[Scan]) -> Scan:
    """All points together; where some have colours, those of the others are not numbers."""
    place = np.concatenate([scan.place for scan in scans])
    if all(scan.colour is None for scan in scans):
        return Scan(place)

    colours = []
    for scan in scans:
        colours.append(
            np.full_like(scan.place, np.nan) if scan.colour is None else scan.colour
        )

    return Scan(place, np.concatenate(colours))


def _placed(node: dict[str, Any]) -> np.ndarray:
    """Where a node is in the one above: a matrix with shape (4, 4)."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # column by column

    x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1]), np.float64)
    turn = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    scale = np.array(node.get("scale", [1, 1, 1]), np.float64).reshape(3)
    translation = np.array(node.get("translation", [0, 0, 0]), np.float64).reshape(3)

    matrix = np.eye(4)
    matrix[:3, :3] = np.array(turn) * scale
    matrix[:3, 3] = translation
    return matrix


def _triangles(order: np.ndarray, mode: int) -> np.ndarray:
    """Triangles, with shape (f, 3), of vertices in the order of a mode."""
    if mode == TRIANGLES:
        return order[: len(order) // 3 * 3].reshape(-1, 3)
    if mode == FAN:
        centre = np.broadcast_to(order[:1], max(0, len(order) - 2))
        return np.stack([centre, order[1:-1], order[2:]], axis=1)

    return np.stack([order[:-2], order[1:-1], order[2:]], axis=1)


def _turned(where: np.ndarray, transform: dict[str, Any]) -> np.ndarray:
    """Places in a picture, with shape (v, 2), as KHR_texture_transform moves them."""
    # Counter-clockwise as one sees the picture, whose second axis points down.
    angle = float(transform.get("rotation", 0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale = np.array(transform.get("scale", [1, 1]))
    offset = np.array(transform.get("offset", [0, 0]))
    return where * scale @ turn.T + offset
