"""PLY files of coloured points: a fast reader for every encoding of the format, and a writer.

Only the points are read here: x y z, and red green blue where the file has them. A file with faces is a mesh.
"""

from pathlib import Path

import numpy as np

from flowbind.atomic import replacing

GREY = 0.5  # of points without a colour

SCALARS = {  # both families of names in use for the same eight types
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2",
    "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
ENCODINGS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
COLOURS = ("red", "green", "blue")
WRITTEN = np.dtype([*((axis, "<f4") for axis in "xyz"), *((colour, "u1") for colour in COLOURS)])
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


def read_points(content: bytes) -> np.ndarray | None:
    """Reads the points of a PLY file's content.

    Integer colours are divided by the largest value of their type, floating ones are taken as they are; points
    without colours are mid-grey.

    Returns:
        x, y, z in world units and red, green, blue in [0, 1]: float32 with shape (n, 6). None if the file has faces
        or lists, which only a reader of meshes understands.

    Raises:
        ValueError: the content is not PLY or ends too early; says why, without the file's name.
    """
    encoding, elements, body = _header(content)
    first, count, fields = elements[0]
    if first != "vertex" or fields is None or any(name == "face" and faces for name, faces, _ in elements):
        return None
    names = [name for name, _ in fields]
    if not set("xyz") <= set(names):
        raise ValueError(f"its vertices have no x, y, z, only {', '.join(names) or 'nothing'}")
    kinds = np.dtype([(name, ENCODINGS[encoding] + kind) for name, kind in fields])
    if encoding == "ascii":
        rows = body.split(maxsplit=count * len(fields))[: count * len(fields)]
        found = len(rows) // len(fields)
        if found == count:
            table = np.array(rows, dtype="S").astype(np.float64).reshape(count, len(fields))
            columns = dict(zip(names, table.T, strict=True))
    else:
        found = min(len(body) // kinds.itemsize, count)
        columns = np.frombuffer(body, kinds, found)
    if found < count:
        raise ValueError(f"truncated: {found} of {count} points are there")
    cloud = np.full((count, 6), GREY, np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        for i, axis in enumerate("xyz"):
            cloud[:, i] = columns[axis]
        for i, colour in enumerate(COLOURS, start=3):
            if colour in names:
                whole = kinds[colour].kind in "iu"
                cloud[:, i] = columns[colour] / (np.iinfo(kinds[colour]).max if whole else 1)
    return cloud


def write_points(cloud: np.ndarray, path: Path) -> None:
    """Writes points, with shape (n, 6) as `read_points` gives them, as binary PLY with 8-bit colours."""
    rows = np.empty(len(cloud), WRITTEN)
    for i, name in enumerate(WRITTEN.names):
        rows[name] = cloud[:, i] if i < 3 else np.rint(255 * np.clip(cloud[:, i], 0, 1))
    with replacing(path) as partial:
        partial.write_bytes(HEADER.format(count=len(cloud)).encode() + rows.tobytes())


def _header(content: bytes) -> tuple[str, list[tuple[str, int, list | None]], bytes]:
    """The encoding, each element's name, count and fields (None where one is a list), and what follows the header."""
    end = content.find(b"end_header")
    line_end = content.find(b"\n", end)
    if not content.startswith(b"ply") or end < 0 or line_end < 0:
        raise ValueError("not a PLY file, or its header is damaged")
    encoding, elements = "", []
    try:
        for line in content[:end].decode("latin-1").splitlines():  # which knows every byte
            match line.split():
                case ["format", form, _] if form in ENCODINGS:
                    encoding = form
                case ["element", name, count]:
                    elements.append((name, min(int(count), len(content)), []))  # a row is a byte or more
                    if elements[-1][1] < 0:
                        raise ValueError
                case ["property", "list", *_]:
                    elements[-1] = (*elements[-1][:2], None)
                case ["property", kind, name] if elements[-1][2] is not None:
                    elements[-1][2].append((name, SCALARS[kind]))
    except (ValueError, KeyError, IndexError):
        raise ValueError(f"its PLY header has a line that cannot be read: {line.strip()[:60]!r}") from None
    if not encoding or not elements:
        raise ValueError("its PLY header names no format or no elements")
    return encoding, elements, content[line_end + 1 :]
