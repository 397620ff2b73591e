"""Points in tables: text with a point a line (XYZ, PTS), and numpy's arrays and archives."""

import io
import re
import zipfile
import zlib

import numpy as np

from flowbind.npy import read_header, read_numbers
from flowbind.turns import weigh
from flowbind_points.cloud import Scan, from_columns, from_named
from flowbind_points.numbers import parse

LARGEST = 2**29  # bytes of an array in an archive, unpacked
WEIGHT = 5  # bytes of memory that one of these takes
WIDEST = 100  # numbers of a point
LINES = 100  # before the first point, at most: comments, names of columns, a number of points
START = re.compile(rb"[-+.]*(\d|(nan|inf)\b)", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z_]\w*")
# What a damaged archive leads zipfile to.
UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)
PLACES = (
    "points",
    "point",
    "xyz",
    "pos",
    "positions",
    "coord",
    "coords",
    "pc",
    "pcd",
    "vertices",
    "arr_0",
)
COLOURS = (
    "colors",
    "colours",
    "color",
    "colour",
    "rgb",
    "vertex_colors",
    "arr_1",
)
# Where other columns than the fourth come first.
FIRST_COLOUR = {
    ".pts": (4, 3, 6),
    ".xyzn": (6,),
}


def read_text(content: bytes, suffix: str = ".xyz") -> Scan:
    """Points of a text, one a line: x y z, and what else there is.

    Between numbers are spaces, tabs, commas or semicolons. Lines before the first point may be
    comments, a number of points, which must then be right, and names of the columns, which then
    tell the colours; else the order of the columns does. With semicolons, commas are decimal.

    Raises:
        ValueError: it is no such text; gives the reason, without the file's name.
    """
    text = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")

    names, promised, line, text = _heading(text)
    if b";" in line:
        text = text.replace(b",", b".")
        text = text.replace(b";", b" ")

    lines = sum(1 for _ in re.finditer(rb"\S[^\n]*", text))
    numbers = parse(text.replace(b",", b" "))
    width = len(numbers) // max(1, lines)
    if width * lines != len(numbers):
        raise ValueError(
            f"truncated or no table: {len(numbers)} numbers in {lines} lines"
        )
    if width > WIDEST:
        raise ValueError(f"lines of {width} numbers, allowed are {WIDEST}")
    if promised is not None and promised != lines:
        raise ValueError(f"truncated: {lines} of {promised} points are there")

    table = numbers.reshape(lines, width)
    if len(names) == width and set("xyz") <= {name.lower() for name in names}:
        columns = dict(zip(names, table.T, strict=True))
        return from_named(columns)

    firsts = FIRST_COLOUR.get(suffix, (3, 4, 6))
    return from_columns(table, firsts)


def _heading(text: bytes) -> tuple[list[str], int | None, bytes, bytes]:
    """What stands before the first point: names of columns, and a number of points.

    Returns also the line of the first point, and the text from there.

    Raises:
        ValueError: there is no point.
    """
    names: list[str] = []
    promised = None
    for _ in range(LINES):
        line, _, rest = text.partition(b"\n")
        cells = line.strip(b" \t\r,;")
        words = re.split(rb"[\s,;]+", cells)
        if len(words) == 1 and words[0].isdigit() and b"," not in line:
            promised = int(words[0])
        elif START.match(line.lstrip(b" \t")):
            break
        else:
            heading = line.decode("latin-1")
            names = NAME.findall(heading) or names
        text = rest.lstrip()

    if not text:
        raise ValueError("no points: no line begins with a number")

    return names, promised, line, text


def read_array(content: bytes) -> Scan:
    """Points of a numpy array, with shape (n, 3) or more columns, or with fields named x, y, z.

    Raises:
        ValueError: it is no such array, is not whole, or holds objects, which only running code
            would bring back.
    """
    return _scan(_array(content))


def read_archive(content: bytes) -> Scan:
    """Points of numpy's archive: of its one array, or of those with the usual names.

    Raises:
        ValueError: it is no such archive, larger unpacked than 512 MiB, or its arrays do not
            have the usual names.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = _members(archive)
            sizes = [info.file_size for info in infos]
            if any(size > LARGEST for size in sizes):
                raise ValueError(f"an array of more than {LARGEST} bytes")

            weigh(WEIGHT * sum(sizes))
            contents = (archive.read(info) for info in infos)
            arrays = [_array(content) for content in contents]
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"damaged, or no archive of arrays ({reason})") from None

    scan = _scan(arrays[0])
    if len(arrays) == 1:
        return scan

    colour = arrays[1]
    count = len(scan.place)
    if colour.shape not in ((count, 3), (count, 4)):
        raise ValueError(f"colours of shape {colour.shape} for {count} points")

    channels = colour[:, :3]
    return Scan(scan.place, channels)


def _members(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The array of places and, where there is one, that of colours.

    Raises:
        ValueError: no array has a name that places have.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    names: dict[str, str] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        members[name] = info
        names[name.lower()] = name

    place = next((names[name] for name in PLACES if name in names), None)
    if len(members) == 1:
        (place,) = members
    if place is None:
        given_names = ", ".join(members)[:60] or "nothing"
        raise ValueError(f"arrays named {given_names}; one of them is named points")

    for name in COLOURS:
        if name in names and names[name] != place:
            colour = names[name]
            return [members[place], members[colour]]

    return [members[place]]


def _scan(array: np.ndarray) -> Scan:
    """Points of an array: by its fields, as a picture of places, or by its columns."""
    if array.dtype.names:
        flat = array.reshape(-1)
        columns = {}
        for name in array.dtype.names:
            if array.dtype[name].kind in "biuf":
                columns[name] = flat[name]

        return from_named(columns)

    if array.ndim == 3 and array.shape[2] in (3, 4, 6):  # a picture of places
        width = array.shape[2]
        array = array.reshape(-1, width)

    return from_columns(array)


def _array(content: bytes) -> np.ndarray:
    """An array of real numbers, or of records with some, of a file's content, without a copy."""
    try:
        header = read_header(content)
    except ValueError as error:
        raise ValueError(f"no numpy array ({error})") from None

    dtype = header.dtype
    if dtype.hasobject:
        raise ValueError(
            "an array of objects, which is not read: bringing them back would run code"
        )
    kinds = [dtype.kind]
    if dtype.names:
        kinds = [dtype[name].kind for name in dtype.names]
    if not set(kinds) & set("biuf"):
        raise ValueError(f"an array of the type {dtype}, not of real numbers")

    return read_numbers(content, header)
