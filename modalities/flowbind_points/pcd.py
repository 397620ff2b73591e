"""PCD files, the point clouds of the Point Cloud Library: text, binary, and compressed by LZF."""

import struct
from collections.abc import Mapping

import numpy as np

from flowbind_points.cloud import Scan, from_named
from flowbind_points.numbers import parse

LARGEST = 2**29  # bytes of points, unpacked
PACKED = 2**26  # bytes of compressed points, which Python alone unpacks
KINDS = {"F": "f", "I": "i", "U": "u"}


def read_points(content: bytes) -> Scan:
    """Reads the points of a PCD file's content.

    Raises:
        ValueError: the content is not PCD or ends too early; gives the reason, without the file's
            name.
    """
    header, body = _header(content)
    older = header.get("COLUMNS", [])
    names = header.get("FIELDS", older)
    try:
        fields = _fields(header, len(names))
        count = _count(header)
        if len(names) != len(_names(fields)) or count < 0 or not fields.itemsize:
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError("its PCD header is damaged") from None

    if count * fields.itemsize > LARGEST:
        raise ValueError(
            f"{count} points of {fields.itemsize} bytes; allowed are {LARGEST} bytes"
        )

    encoding = header["DATA"][0]
    if encoding == "ascii":
        columns = _from_text(body, fields, count)
    else:
        is_compressed = encoding == "binary_compressed"
        columns = _from_bytes(body, fields, count, is_compressed)

    named = dict(zip(names, columns, strict=True))
    return _scan(named)


def _fields(header: dict[str, list[str]], count: int) -> np.dtype:
    """The numbers of a point: a field for each name, with its type and how many of them it has."""
    ones = ["1"] * count
    sizes = header.get("SIZE", ones)
    counts = header.get("COUNT", ones)
    fields: list[tuple[str, str, tuple[int]]] = []
    for letter, size, length in zip(header["TYPE"], sizes, counts, strict=True):
        number = f"{len(fields)}"
        kind = f"<{KINDS[letter]}{int(size)}"
        fields.append((number, kind, (int(length),)))

    return np.dtype(fields)


def _names(fields: np.dtype) -> tuple[str, ...]:
    return fields.names or ()


def _count(header: dict[str, list[str]]) -> int:
    """The number of points."""
    count = 0
    if "WIDTH" in header:
        width = int(header["WIDTH"][0])
        height = int(header["HEIGHT"][0])
        count = width * height

    stated = header.get("POINTS", [count])
    return int(stated[0])


def _header(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The header's lines by their first words, and what follows it."""
    header: dict[str, list[str]] = {}
    place = 0
    while place < min(len(content), 2**16):
        end = content.find(b"\n", place)
        if end < 0:
            end = len(content)

        line = content[place:end].decode("latin-1")
        words = line.split()
        place = min(end + 1, len(content))
        if words and not words[0].startswith("#"):
            key = words[0].upper()
            header[key] = words[1:]
        if words[:1] == ["DATA"]:
            if words[1:] not in (["ascii"], ["binary"], ["binary_compressed"]):
                break
            return header, content[place:]

    raise ValueError("not a PCD file, or its header is damaged")


def _from_text(
    body: bytes,
    fields: np.dtype,
    count: int,
) -> list[np.ndarray]:
    """The first number of each field of every point."""
    lengths = []
    for name in _names(fields):
        lengths.append(fields[name].shape[0])
    width = sum(lengths)
    numbers = parse(body)
    if len(numbers) != count * width:
        raise ValueError(
            f"truncated: {len(numbers) // width} of {count} points are there"
        )

    table = numbers.reshape(count, width)
    begins = np.cumsum([0, *lengths[:-1]])
    columns = []
    for name, begin in zip(_names(fields), begins, strict=True):
        kind = fields[name].base
        with np.errstate(invalid="ignore", over="ignore"):
            columns.append(table[:, begin].astype(kind))

    return columns


def _from_bytes(
    body: bytes,
    fields: np.dtype,
    count: int,
    compressed: bool,
) -> list[np.ndarray]:
    """The same, of points one after another, or compressed."""
    if compressed:
        return _from_compressed(body, fields, count)

    if len(body) < count * fields.itemsize:
        present = len(body) // fields.itemsize
        raise ValueError(f"truncated: {present} of {count} points are there")

    table = np.frombuffer(body, fields, count)
    columns = []
    for name in _names(fields):
        if fields[name].shape[0]:
            columns.append(table[name][:, 0])
        else:
            columns.append(np.empty(count))

    return columns


def _from_compressed(
    body: bytes,
    fields: np.dtype,
    count: int,
) -> list[np.ndarray]:
    """The same, compressed, where each field of all points stands together."""
    if len(body) < 8:
        raise ValueError("truncated: no points are there")
    packed, unpacked = struct.unpack_from("<II", body)
    if packed > PACKED:
        raise ValueError(
            f"{packed} compressed bytes, allowed are {PACKED}; save it as binary"
        )
    present = len(body) - 8
    if present < packed or unpacked != count * fields.itemsize:
        raise ValueError(f"truncated: {present} of {packed} compressed bytes are there")

    end = 8 + packed
    plain = unpack(body[8:end], unpacked)
    columns = []
    place = 0
    for name in _names(fields):
        kind = fields[name].base
        length = fields[name].shape[0]
        size = count * length
        numbers = np.frombuffer(plain, kind, size, place)
        step = max(1, length)
        columns.append(numbers[::step])
        place += size * kind.itemsize

    return columns


def unpack(packed: bytes, length: int) -> bytes:
    """Unpacks LZF.

    A byte below 32 is followed by that many and one more as they are; another begins a repetition.

    Raises:
        ValueError: it is damaged.
    """
    plain = bytearray()
    place = 0
    try:
        while place < len(packed) and len(plain) <= length:
            control = packed[place]
            place += 1
            if control < 32:
                end = place + control + 1
                plain += packed[place:end]
                place = end
                continue

            size = control >> 5
            if size == 7:
                size += packed[place]
                place += 1
            distance = (control & 31) << 8
            distance += packed[place] + 1
            start = len(plain) - distance
            place += 1
            if start < 0:
                raise IndexError

            # A copy, which may be longer than what there is to be copied.
            size += 2
            source = plain[start : start + size]
            repeats = -(-size // len(source))
            copy = source * repeats
            plain += copy[:size]
    except IndexError:
        raise ValueError("damaged: its compressed points lead nowhere") from None

    if len(plain) != length:
        raise ValueError(f"damaged: {len(plain)} of {length} bytes are there")

    return bytes(plain)


def _scan(columns: Mapping[str, np.ndarray]) -> Scan:
    """Points of named columns; four bytes, blue first, are a colour in one number."""
    columns = dict(columns)
    packed = None
    for name in ("rgb", "rgba"):
        if packed is None and name in columns:
            packed = columns.pop(name)
    if packed is not None and packed.dtype.itemsize == 4:
        colour = np.ascontiguousarray(packed).view("<u4")
        for name, bit in (("red", 16), ("green", 8), ("blue", 0)):
            channel = colour >> bit & 255
            columns[name] = channel.astype(np.uint8)

    return from_named(columns)
