"""Malformed inputs, made by seeded code, and the doors of flowbind that they are brought to.

As a program (`python -m tests.hostile FOLDER`) it brings each to its doors and prints a JSON line of what became of it.
The process may not grow by more than `GROWTH`, and a door that takes longer than `PATIENCE` is a hang.
"""

import base64
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import soundfile
import torch
from safetensors.torch import save as safetensors

from flowbind import release
from flowbind.cli import main
from flowbind.cli.check import check_recipe
from flowbind.data.manifest import Manifest
from flowbind.data.shard import LINE, write_shard
from flowbind.data.store import MANIFEST, LatentStore, finish_store
from flowbind.files import digest_json
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind.registry import load
from tests.released import make_model

GROWTH = 4 * 2**30  # bytes of address space
PATIENCE = 60  # seconds; the work itself has to be done in ten, of the processor
SIZES = DriftConfig(width=8, depth=1), HeadConfig(width=8, depth=1)
KEYS = ("model", "data", "trainer", "seed_everything")
NAMES = ("text", "image", "audio", "points")


class Input(NamedTuple):
    """A malformed input: what it is, the kind of door, its file, and whether it may also be read as something sound."""

    what: str
    door: str
    path: Path
    harmless: bool = False


class Hang(BaseException):
    """A door took too long."""


# Making inputs


def cuts(
    content: bytes, draw: random.Random, count: int
) -> Iterator[tuple[str, bytes]]:
    for _ in range(count):
        kept = draw.randrange(len(content))
        yield f"cut at {kept}", content[:kept]


def flips(
    content: bytes, draw: random.Random, count: int
) -> Iterator[tuple[str, bytes]]:
    """Half of them among the first bytes, where headers are."""
    for number in range(count):
        place = draw.randrange(min(64, len(content)) if number % 2 else len(content))
        changed = bytearray(content)
        changed[place] ^= draw.randrange(1, 256)
        yield f"byte {place} is {changed[place]}", bytes(changed)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, its checksum right."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def png(width: int, height: int, rows: bytes, *more: bytes) -> bytes:
    """A grey PNG with any header and any content."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def picture(kind: str, draw: random.Random) -> bytes:
    pixels = np.frombuffer(draw.randbytes(24 * 32 * 3), np.uint8).reshape(24, 32, 3)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def images(draw: random.Random) -> Iterator[tuple[str, str, bytes, bool]]:
    """What is wrong, suffix, content, and whether it may be read."""
    kinds = {
        "PNG": ".png",
        "JPEG": ".jpg",
        "WEBP": ".webp",
        "BMP": ".bmp",
        "GIF": ".gif",
        "TIFF": ".tif",
        "AVIF": ".avif",
    }
    kinds |= {
        "JPEG2000": ".jp2",
        "PPM": ".ppm",
        "TGA": ".tga",
        "ICO": ".ico",
        "QOI": ".qoi",
        "SGI": ".sgi",
        "DDS": ".dds",
    }
    for kind, suffix in kinds.items():
        whole = picture(kind, draw)
        yield from (
            (what, suffix, content, kind != "PNG")
            for what, content in cuts(whole, draw, 6)
        )
        yield from (
            (what, suffix, content, kind != "PNG")
            for what, content in flips(whole, draw, 8)
        )
    yield "60,000 pixels a side, promised", ".png", png(60_000, 60_000, b"\0"), False
    yield (
        "10,000 pixels a side, all there",
        ".png",
        png(10_000, 10_000, bytes(10_001 * 10_000)),
        False,
    )
    yield (
        "9,400 pixels a side, all there, allowed",
        ".png",
        png(9400, 9400, bytes(9401 * 9400)),
        True,
    )
    yield "2^31 - 1 pixels wide", ".png", png(2**31 - 1, 1, b"\0"), False
    yield "no pixels", ".png", png(0, 0, b""), False
    yield (
        "a bomb of words",
        ".png",
        png(4, 4, bytes(20), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9))),
        True,
    )
    yield (
        "a bomb of a profile",
        ".png",
        png(4, 4, bytes(20), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28), 9))),
        True,
    )
    bmp = bytearray(picture("BMP", draw))
    bmp[18:26] = struct.pack("<ii", 65_000, 65_000)
    yield "65,000 pixels a side, promised", ".bmp", bytes(bmp), False
    jpeg = bytearray(picture("JPEG", draw))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65_500, 65_500)
    yield "65,500 pixels a side, promised", ".jpg", bytes(jpeg), False
    webp = (
        b"RIFF"
        + struct.pack("<I", 4 + 18)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xfe\x3f\0\xfe\x3f\0"
    )
    yield "16,383 pixels a side, promised", ".webp", webp, False
    yield "a GIF", ".png", picture("GIF", draw), True
    gif = bytearray(picture("GIF", draw))
    gif[6:10] = struct.pack("<HH", 65_500, 65_500)
    yield "65,500 pixels a side, promised", ".gif", bytes(gif), False
    yield (
        "65,500 pixels a side, promised",
        ".ppm",
        b"P6 65500 65500 255\n" + bytes(99),
        False,
    )
    yield (
        "9,000 pixels a side, promised",
        ".ppm",
        b"P6 9000 9000 255\n" + bytes(99),
        False,
    )
    yield (
        "a drawing in words",
        ".png",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="99999" height="99999"/>',
        False,
    )
    yield "a program", ".jpg", b"\x7fELF" + draw.randbytes(300), False
    yield (
        "an EPS, which a program would draw",
        ".png",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nquit\n",
        False,
    )


def wav(
    rate: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    stated: int | None = None,
    data: bytes = bytes(640),
) -> bytes:
    """A WAV with any header."""
    block = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * block % 2**32, block % 2**16, bits
    )
    size = len(data) if stated is None else stated
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size & 0xFFFFFFFF)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def sound(form: str, subtype: str, samples: np.ndarray, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def sounds(draw: random.Random) -> Iterator[tuple[str, str, bytes, bool]]:
    tone = np.sin(np.arange(3000) / 7).astype(np.float32)
    kinds = [
        ("WAV", "PCM_16", ".wav"),
        ("FLAC", "PCM_16", ".flac"),
        ("OGG", "VORBIS", ".ogg"),
        ("AIFF", "PCM_16", ".aif"),
    ]
    kinds += [
        ("OGG", "OPUS", ".opus"),
        ("MP3", "MPEG_LAYER_III", ".mp3"),
        ("WAV", "GSM610", ".wav"),
        ("AU", "ULAW", ".au"),
    ]
    kinds += [
        ("CAF", "ALAC_16", ".caf"),
        ("W64", "PCM_16", ".w64"),
        ("RF64", "FLOAT", ".rf64"),
        ("WAV", "MS_ADPCM", ".wav"),
    ]
    for form, subtype, suffix in kinds:
        whole = sound(form, subtype, tone)
        yield from (
            (what, suffix, content, form == "MP3")
            for what, content in cuts(whole, draw, 6)
        )
        yield from (
            (what, suffix, content, True) for what, content in flips(whole, draw, 8)
        )
    yield "3 GB, promised", ".wav", wav(stated=0x7FF00000), False
    yield "2,147,483,647 Hz", ".wav", wav(rate=2**31 - 1), False
    yield "no rate", ".wav", wav(rate=0), False
    yield "1 Hz", ".wav", wav(rate=1, data=bytes(2 * 700)), False
    yield "65,535 channels", ".wav", wav(channels=65_535), False
    yield "no channels", ".wav", wav(channels=0), False
    yield "no bits", ".wav", wav(bits=0), False
    yield "no samples", ".wav", wav(data=b""), False
    yield (
        "not a number",
        ".wav",
        sound("WAV", "FLOAT", np.array([0, np.nan, 0], np.float32)),
        False,
    )
    yield (
        "infinite",
        ".wav",
        sound("WAV", "FLOAT", np.array([0, -np.inf, 0], np.float32)),
        False,
    )
    yield "1e300", ".wav", sound("WAV", "DOUBLE", np.array([0, 1e300, 0])), False
    yield (
        "700 s in a small file",
        ".flac",
        sound("FLAC", "PCM_16", np.zeros(700 * 8000, np.int16), 8000),
        False,
    )
    yield "700 s", ".wav", wav(rate=100, data=bytes(2 * 700 * 100)), False
    flac = bytearray(sound("FLAC", "PCM_16", tone))
    # STREAMINFO's number of samples, and bits of what stands before it.
    flac[21:26] = b"\xff" * 5
    yield "2^36 samples, promised", ".flac", bytes(flac), False
    yield (
        "a million empty chunks",
        ".wav",
        wav()[:36] + b"junk\0\0\0\0" * 1_000_000,
        False,
    )
    yield "an AIFF", ".wav", sound("AIFF", "PCM_16", tone), True
    yield "32,767 in floats", ".wav", sound("WAV", "FLOAT", 32_767 * tone), False
    yield "words", ".wav", b"no sound at all, just a sentence that goes on", False
    yield "another format's bytes", ".ogg", wav(), True
    yield "a page without an end", ".ogg", b"OggS" + bytes(40), False


PLY = "ply\nformat {form} 1.0\nelement vertex {count}\nproperty float x\nproperty float y\nproperty float z\n{more}end_header\n"


def ply(
    count: Any = 2, body: bytes = b"0 0 0\n1 1 1\n", form: str = "ascii", more: str = ""
) -> bytes:
    return PLY.format(form=form, count=count, more=more).encode() + body


OBJ = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n"
OFF = b"OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"
STL = (
    bytes(80)
    + struct.pack("<I", 2)
    + 2 * (struct.pack("<12f", 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0) + bytes(2))
)
FACES = "element face {count}\nproperty list uchar int vertex_indices\n"


def clouds(draw: random.Random) -> Iterator[tuple[str, str, bytes, bool]]:
    binary = ply(9, np.arange(27, dtype="<f4").tobytes(), "binary_little_endian")
    meshed = ply(3, b"0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", more=FACES.format(count=1))
    for suffix, whole in (
        (".ply", ply()),
        (".ply", binary),
        (".ply", meshed),
        (".obj", OBJ),
        (".off", OFF),
        (".stl", STL),
    ):
        yield from (
            (what, suffix, content, True) for what, content in cuts(whole, draw, 5)
        )
        yield from (
            (what, suffix, content, True) for what, content in flips(whole, draw, 6)
        )
    huge = 10**18
    for form, body in (
        ("ascii", b"0 0 0\n"),
        ("binary_little_endian", bytes(24)),
        ("binary_big_endian", bytes(24)),
    ):
        yield f"{huge} points, promised, {form}", ".ply", ply(huge, body, form), False
        yield f"10^40 points, promised, {form}", ".ply", ply(10**40, body, form), False
        yield f"-5 points, {form}", ".ply", ply(-5, body, form), False
        yield f"no points, {form}", ".ply", ply(0, b"", form), False
    yield "10^5 digits of points", ".ply", ply("9" * 10**5), False
    yield "not numbers", ".ply", ply(body=b"nan nan nan\n1 1 1\n"), True
    yield "infinite", ".ply", ply(body=b"0 0 0\n1 inf 1\n"), True
    yield "1e300", ".ply", ply(body=b"0 0 0\n1 1e300 1\n"), True
    yield "not numbers at all", ".ply", ply(body=b"nan nan nan\n1 inf 1\n"), False
    yield "words for numbers", ".ply", ply(body=b"0 0 0\na b c\n"), False
    yield (
        "not numbers, binary",
        ".ply",
        ply(1, struct.pack("<3f", 0, float("nan"), 0), "binary_little_endian"),
        False,
    )
    yield (
        "10^18 faces, promised",
        ".ply",
        ply(3, b"0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", more=FACES.format(count=huge)),
        False,
    )
    yield (
        "a list of 255 in a short file",
        ".ply",
        ply(
            3,
            np.zeros(9, "<f4").tobytes() + b"\xff\0\0",
            "binary_little_endian",
            FACES.format(count=1),
        ),
        False,
    )
    yield (
        "a face of points that are not there",
        ".ply",
        ply(3, b"0 0 0\n1 0 0\n0 1 0\n3 0 1 99\n", more=FACES.format(count=1)),
        False,
    )
    yield "no x", ".ply", ply().replace(b"float x", b"float w"), False
    yield "x twice", ".ply", ply().replace(b"float y", b"float x"), False
    yield "an unknown type", ".ply", ply().replace(b"float x", b"string x"), False
    yield "an unknown encoding", ".ply", ply(form="ebcdic"), False
    yield (
        "a header without an end",
        ".ply",
        b"ply\nformat ascii 1.0\n" + b"comment a\n" * 1000,
        False,
    )
    yield "points without faces", ".obj", b"v 0 0 0\nv 1 0 0\n", True
    yield (
        "vertices that are not numbers",
        ".obj",
        b"v nan nan nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        False,
    )
    yield "infinite vertices", ".obj", b"v inf 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", False
    yield (
        "vertices of 1e300",
        ".obj",
        b"v 1e300 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        False,
    )
    yield "a face without area", ".obj", b"v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n", True
    yield (
        "a face of points that are not there",
        ".obj",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99\n",
        False,
    )
    yield (
        "a face of 10^12",
        ".obj",
        b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 1000000000000\n",
        False,
    )
    yield (
        "a material elsewhere",
        ".obj",
        b"mtllib ../../../../etc/passwd\nusemtl a\n" + OBJ,
        True,
    )
    yield (
        "10^18 vertices, promised",
        ".off",
        OFF.replace(b"4 4 0", b"1000000000000000000 4 0"),
        False,
    )
    yield (
        "10^9 faces, promised",
        ".off",
        OFF.replace(b"4 4 0", b"4 1000000000 0"),
        False,
    )
    yield "-4 vertices", ".off", OFF.replace(b"4 4 0", b"-4 4 0"), False
    yield (
        "2^32 - 1 triangles, promised",
        ".stl",
        bytes(80) + b"\xff\xff\xff\xff" + bytes(100),
        False,
    )
    yield (
        "not numbers",
        ".stl",
        STL[:84] + struct.pack("<12f", *[float("nan")] * 12) + bytes(2) + STL[134:],
        True,
    )
    yield (
        "4 GB, promised",
        ".glb",
        b"glTF" + struct.pack("<II", 2, 0xFFFFFFFF) + bytes(40),
        False,
    )
    yield from _gltfs()
    yield from _tables(draw)
    yield from _archives()


def _gltfs() -> Iterator[tuple[str, str, bytes, bool]]:
    """Scenes in JSON, of the triangle in their one buffer."""
    numbers = np.eye(3, dtype="<f4").tobytes()
    buffer = {
        "byteLength": 36,
        "uri": "data:;base64," + base64.b64encode(numbers).decode(),
    }
    accessor = {"componentType": 5126, "count": 3, "type": "VEC3", "bufferView": 0}
    primitive = {"attributes": {"POSITION": 0}}

    def scene(**changes: Any) -> bytes:
        tree = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "accessors": [accessor],
            "bufferViews": [{"buffer": 0, "byteLength": 36}],
            "buffers": [buffer],
        }
        return json.dumps(tree | changes).encode()

    yield "sound", ".gltf", scene(), True
    yield (
        "10^15 numbers, promised",
        ".gltf",
        scene(accessors=[accessor | {"count": 10**15}]),
        False,
    )
    yield (
        "10^15 numbers, of no buffer",
        ".gltf",
        scene(accessors=[{**accessor, "count": 10**15, "bufferView": None}]),
        False,
    )
    many = [{"componentType": 5126, "count": 40_000_000, "type": "VEC3"}] * 50
    primitives = [{"primitives": [{"attributes": {"POSITION": n}} for n in range(50)]}]
    yield (
        "2 * 10^9 points, all zeros",
        ".gltf",
        scene(accessors=many, meshes=primitives),
        False,
    )
    yield (
        "numbers that overlap",
        ".gltf",
        scene(
            accessors=[accessor | {"count": 10**8}],
            bufferViews=[{"buffer": 0, "byteLength": 36, "byteStride": 0}],
        ),
        False,
    )
    circle = [{"mesh": 0, "children": [1]}, {"children": [0]}]
    yield "a circle of nodes", ".gltf", scene(nodes=circle), False
    deep = [
        {"children": [n + 1], "mesh": 0, "scale": [2, 2, 2]} for n in range(20_000)
    ] + [{"mesh": 0}]
    yield "20,000 nodes, one below the other", ".gltf", scene(nodes=deep), True
    yield (
        "a million nodes",
        ".gltf",
        scene(nodes=[{"mesh": 0}] * 10**6, scenes=[{"nodes": list(range(10**6))}]),
        False,
    )
    yield "lists in lists", ".gltf", b'{"asset":' + b"[" * 100_000, False
    yield (
        "numbers elsewhere",
        ".gltf",
        scene(buffers=[{"byteLength": 36, "uri": "../../../../../etc/passwd"}]),
        False,
    )
    yield (
        "numbers on the network",
        ".gltf",
        scene(buffers=[{"byteLength": 36, "uri": "http://127.0.0.1:9/a.bin"}]),
        False,
    )
    yield (
        "compressed",
        ".gltf",
        scene(extensionsRequired=["KHR_draco_mesh_compression"]),
        False,
    )


def _tables(draw: random.Random) -> Iterator[tuple[str, str, bytes, bool]]:
    """Points in text, in numpy's arrays and as PCD."""
    npy = io.BytesIO()
    np.save(npy, np.arange(12, dtype=np.float32).reshape(4, 3))
    head = b"VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH %s\nHEIGHT 1\nPOINTS %s\nDATA %s\n"
    text = head % (b"2", b"2", b"ascii") + b"0 0 0\n1 1 1\n"
    packed = (
        head % (b"2", b"2", b"binary_compressed")
        + struct.pack("<II", 26, 24)
        + b"\x17"
        + bytes(24)
        + b"\0"
    )
    for suffix, whole in (
        (".xyz", b"0 0 0\n1 0 0\n0 1 0\n"),
        (".npy", npy.getvalue()),
        (".pcd", text),
        (".pcd", packed),
    ):
        yield from (
            (what, suffix, content, True) for what, content in cuts(whole, draw, 4)
        )
        yield from (
            (what, suffix, content, True) for what, content in flips(whole, draw, 5)
        )
    huge = b"9" * 18
    for form in (b"ascii", b"binary", b"binary_compressed"):
        yield (
            f"10^18 points, promised, {form.decode()}",
            ".pcd",
            head % (huge, huge, form) + bytes(60),
            False,
        )
    bomb = struct.pack("<II", 2**20, 2**29) + b"\0\0" + b"\xe0\xff\0" * 2**18
    yield (
        "a bomb",
        ".pcd",
        head % (b"44739242", b"44739242", b"binary_compressed") + bomb,
        False,
    )
    yield (
        "a repetition of nothing",
        ".pcd",
        head % (b"2", b"2", b"binary_compressed")
        + struct.pack("<II", 3, 24)
        + b"\xe0\x0a\x05",
        False,
    )
    objects = io.BytesIO()
    np.save(objects, np.array([{}, 1], dtype=object), allow_pickle=True)
    yield "objects", ".npy", objects.getvalue(), False
    yield (
        "10^13 points, promised",
        ".npy",
        npy.getvalue().replace(b"(4, 3), }", b"(%d, 3), }" % 10**13),
        False,
    )
    yield (
        "a header that is a program",
        ".npy",
        npy.getvalue().replace(b"(4, 3)", b"exit()"),
        False,
    )
    yield "a million words", ".xyz", b"word " * 10**6, False
    yield "a million comments", ".xyz", b"# a\n" * 10**6, False
    yield "a line of a million numbers", ".xyz", b"1 " * 10**6, False
    yield "10^400", ".xyz", b"0 0 1" + b"0" * 400 + b"\n", False


def _archives() -> Iterator[tuple[str, str, bytes, bool]]:
    """Archives that unpack to much, and XML that means more than it says."""
    for suffix, name in ((".npz", "points.npy"), (".3mf", "3D/3dmodel.model")):
        file = io.BytesIO()
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open(name, "w") as member,
        ):
            for _ in range(600):
                member.write(bytes(2**20))
        yield "600 MB of zeros", suffix, file.getvalue(), False
        yield "a cut archive", suffix, file.getvalue()[:-30], False
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "aaaaaaaaaa">{entities}]><COLLADA>&a9;</COLLADA>'.encode()
    outside = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><COLLADA>&a;</COLLADA>'
    for what, content in (
        ("a bomb of entities", bomb),
        ("an entity elsewhere", outside),
    ):
        yield what, ".dae", content, False
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("3D/3dmodel.model", content)
        yield what, ".3mf", file.getvalue(), False


def captions(draw: random.Random) -> Iterator[tuple[str, str, bytes, bool]]:
    yield "not UTF-8", ".txt", b"caf\xe9", False
    yield "random bytes", ".txt", draw.randbytes(400), False
    yield "UTF-16", ".txt", "a torus".encode("utf-16"), True
    yield "UTF-16 without a mark", ".txt", "a torus".encode("utf-16-le"), False
    yield "half a character", ".txt", b"\xed\xa0\x80", False
    yield "a zero", ".txt", b"a\0b", False
    yield "only spaces", ".txt", b" \n\t \n", False
    yield "only a mark", ".txt", b"\xef\xbb\xbf", False
    yield "8 MB", ".txt", b"torus " * 1_400_000, False


def places(folder: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """What is no file, or not one to read, under a file's name."""
    (folder / f"folder{suffix}").mkdir()
    yield "a folder", folder / f"folder{suffix}"
    os.mkfifo(folder / f"pipe{suffix}")
    yield "a pipe that nobody writes to", folder / f"pipe{suffix}"
    for first, second in (("loop", "pool"), ("pool", "loop")):
        (folder / f"{first}{suffix}").symlink_to(folder / f"{second}{suffix}")
    yield "a circle of links", folder / f"loop{suffix}"
    (folder / f"endless{suffix}").symlink_to("/dev/zero")
    yield "a link to an endless device", folder / f"endless{suffix}"
    (folder / f"none{suffix}").symlink_to(folder / "nowhere")
    yield "a link to nothing", folder / f"none{suffix}"
    (folder / f"empty{suffix}").touch()
    yield "0 bytes", folder / f"empty{suffix}"
    with (folder / f"sparse{suffix}").open("wb") as file:
        file.truncate(2**40)
    yield "2^40 bytes, none of them stored", folder / f"sparse{suffix}"
    yield "no such file", folder / f"absent{suffix}"
    yield "a zero in the name", folder / f"a\0b{suffix}"
    yield "half a character in the name", folder / f"a\ud800b{suffix}"
    yield "a name of 5,000 characters", folder / ("a" * 5000 + suffix)


def samples(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Pictures, sounds, clouds and captions."""
    makers = {"image": images, "audio": sounds, "points": clouds, "text": captions}
    for door, make in makers.items():
        here = folder / door
        here.mkdir()
        for number, (what, suffix, content, harmless) in enumerate(make(draw)):
            path = here / f"bad{number:03}{suffix}"
            path.write_bytes(content)
            yield Input(what, door, path, harmless)
        suffix = load("modalities", door).suffixes[0]
        yield from (Input(what, door, path) for what, path in places(here, suffix))


BOMB = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a: &a0 {x: 1}\n" + "".join(
    f"b{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12)
)

RECIPES: dict[str, str | bytes] = {
    "a bomb of aliases": BOMB,
    "a bomb of merged keys": MERGES,
    "a list that holds itself": "model: &a [*a]\n",
    "a mapping that holds itself": "model: &a {init_args: *a, class_path: flowbind.FlowBind}\n",
    "100,000 lists in lists": "model: " + "[" * 100_000,
    "100,000 mappings in mappings": "model: " + "{a: " * 100_000,
    "5,000 closed lists in lists": "model: " + "[" * 5000 + "]" * 5000,
    "blocks in blocks": "".join(" " * n + "a:\n" for n in range(2000)),
    "code: apply": "model: !!python/object/apply:os.system ['touch canary']\n",
    "code: new": "model: !!python/object/new:os.system ['touch canary']\n",
    "code: object": "model: !!python/object:subprocess.Popen {args: touch canary}\n",
    "code: name": "model: !!python/name:os.system\n",
    "code: module": "model: !!python/module:os\n",
    "a tag of one's own": "model: !evil x\n",
    "another language": "model: !ruby/object:Gem::Installer {}\n",
    "a function for a class": "model: {class_path: os.system, init_args: {command: touch canary}}\n",
    "a module for a class": "model: {class_path: os.path}\n",
    "a constant for a class": "model: {class_path: sys.maxsize}\n",
    "dots for a class": "model: {class_path: ...}\n",
    "a number for a class": "model: {class_path: 3}\n",
    "a list for a class": "model: {class_path: [a, b]}\n",
    "a class with a zero": 'model: {class_path: "os\\0.system"}\n',
    "a class that is not there": "model: {class_path: no.such.Thing}\n",
    "a list of arguments": "model: {class_path: flowbind.FlowBind, init_args: [1, 2]}\n",
    "a list for the trainer": "trainer: [1, 2]\n",
    "an unknown key": "modle: {}\n",
    "a key that is a list": "? [model]\n: 1\n",
    "a key that is a number": "3: 4\n",
    "a list at the top": "- model\n- data\n",
    "a number at the top": "42\n",
    "nothing": "",
    "only a comment": "# model\n",
    "two documents": "model: 1\n---\nmodel: 2\n",
    "an open quote": 'model: "abc\n',
    "a tab": "model:\n\tdata: 1\n",
    "an unknown alias": "model: *nobody\n",
    "10,000 digits": "seed_everything: " + "9" * 10_000 + "\nmodle: 1\n",
    "no number": "seed_everything: !!int x\n",
    "no number in base 60": "seed_everything: !!float 1:x:2\n",
    "no date": "seed_everything: !!timestamp 2001-99-99\n",
    "not UTF-8": b"model: caf\xe9\n",
    "random bytes": random.Random(0).randbytes(500),
    "a zero": b"model: a\0b\n",
    "4 MB": "model: [" + "a, " * 1_400_000 + "a]\n",
}


def recipes(folder: Path) -> Iterator[Input]:
    (here := folder / "recipe").mkdir()
    for number, (what, content) in enumerate(RECIPES.items()):
        path = here / f"bad{number:03}.yaml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        yield Input(what, "recipe", path)
    yield from (Input(what, "recipe", path) for what, path in places(here, ".yaml"))


def manifests(folder: Path, draw: random.Random) -> Iterator[Input]:
    (here := folder / "manifest").mkdir()
    list(places(here, ".png"))
    (here / "passwd.png").symlink_to("/etc/passwd")
    lines: dict[str, str | bytes] = {
        "up and out": '{"image": "../../../../../../../../../../etc/passwd"}',
        "up and out, to another suffix": '{"audio": "../../../../../../../../../../etc/passwd"}',
        "up and out, points": '{"points": "../../../../../../../../../../etc/passwd"}',
        "from the root": '{"image": "/etc/passwd"}',
        "from the root, audio": '{"audio": "/etc/shadow"}',
        "a link out": '{"image": "passwd.png"}',
        "an address": '{"image": "https://example.com/a.png"}',
        "an address of a file": '{"image": "file:///etc/passwd"}',
        "a zero": '{"image": "a\\u0000.png"}',
        "half a character": '{"image": "a\\ud800.png"}',
        "5,000 characters": json.dumps({"image": "a" * 5000 + ".png"}),
        "two lines": '{"image": "a\\nb.png"}',
        "a folder": '{"image": "folder.png"}',
        "this folder": '{"image": "."}',
        "a pipe": '{"image": "pipe.png"}',
        "a circle of links": '{"image": "loop.png"}',
        "an endless device": '{"image": "endless.png"}',
        "0 bytes": '{"image": "empty.png"}',
        "2^40 bytes": '{"image": "sparse.png"}',
        "100,000 lists in lists": '{"text": ' + "[" * 100_000,
        "5,000 objects in objects": '{"labels": '
        + '{"a": ' * 5000
        + "1"
        + "}" * 5000
        + "}",
        "10,000 digits": '{"text": "a", "id": ' + "9" * 10_000 + "}",
        "a list": '["text"]',
        "a number": "7",
        "nothing in it": "{}",
        "null": '{"text": null}',
        "a number for a caption": '{"text": 7}',
        "an object for a caption": '{"text": {"a": 1}}',
        "an empty caption": '{"text": "  "}',
        "a caption with a zero": '{"text": "a\\u0000b"}',
        "a caption with half a character": '{"text": "a \\udc00 b"}',
        "an unknown modality": '{"smell": "a"}',
        "a list of labels": '{"text": "a", "labels": [1]}',
        "cut": '{"text": "a',
        "not UTF-8": b'{"text": "caf\xe9"}',
        "UTF-16": '{"text": "a"}'.encode("utf-16"),
        "random bytes": draw.randbytes(300),
    }
    for number, (what, content) in enumerate(lines.items()):
        path = here / f"bad{number:03}.jsonl"
        path.write_bytes(
            (
                content.encode("utf-8", "surrogatepass")
                if isinstance(content, str)
                else content
            )
            + b"\n"
        )
        yield Input(what, "manifest", path)
    (there := folder / "manifests").mkdir()
    yield from (Input(what, "manifest", path) for what, path in places(there, ".jsonl"))


def weights(folder: Path, draw: random.Random) -> Iterator[Input]:
    """Weights of a codec."""
    (here := folder / "codec").mkdir()
    codec = load("codecs", "small-image")
    state = dict(codec().net.state_dict())
    whole = safetensors(state)
    size = 8 + int.from_bytes(whole[:8], "little")
    name = next(iter(state))

    def headed(
        header: Any, data: bytes = bytes(64), stated: int | None = None
    ) -> bytes:
        content = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (
            struct.pack("<Q", len(content) if stated is None else stated)
            + content
            + data
        )

    def one(dtype: Any = "F32", shape: Any = (4,), offsets: Any = (0, 16)) -> dict:
        return {name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}

    bad = {
        "a header of 2^63 bytes": headed(b"{}", stated=2**63),
        "a header of 10^8 bytes": headed(b"{}", stated=10**8),
        "a header of 99 MB, all spaces": headed(b"{" + b" " * 99_000_000 + b"}"),
        "no header": headed(b""),
        "a header that is no JSON": headed(b"{a"),
        "a header of lists in lists": headed(b"[" * 50_000),
        "a list for a header": headed([1]),
        "overlapping offsets": headed(
            one() | {"other": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}
        ),
        "offsets past the end": headed(one(offsets=(0, 2**40))),
        "offsets before the beginning": headed(one(offsets=(-16, 0))),
        "offsets that go back": headed(one(offsets=(16, 0))),
        "a hole between tensors": headed(one(offsets=(32, 48))),
        "a type that there is not": headed(one("F99")),
        "a number for a type": headed(one(7)),
        "a size of 2^62": headed(one(shape=(2**62, 4))),
        "a size below zero": headed(one(shape=(-4,))),
        "a size in words": headed(one(shape="many")),
        "the same name twice": headed(
            json.dumps(one())[:-1].encode() + b", " + json.dumps(one())[1:].encode()
        ),
        "another network's": safetensors({"weight": torch.zeros(3)}),
        "one tensor less": safetensors(
            {key: value for key, value in state.items() if key != name}
        ),
        "one tensor more": safetensors(state | {"more": torch.zeros(3)}),
        "another shape": safetensors(state | {name: torch.zeros(2, 2)}),
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
        "a ZIP": b"PK\x03\x04" + draw.randbytes(200),
        "bytes more": whole + b"more",
    }
    bad |= {f"cut at {n}": whole[:n] for n in (1, 7, 8, size - 1, size, len(whole) - 1)}
    bad |= dict(flips(whole[:size], draw, 12))
    for number, (what, content) in enumerate(bad.items()):
        path = here / f"bad{number:03}.safetensors"
        path.write_bytes(content + (whole[size:] if what.startswith("byte ") else b""))
        yield Input(what, "codec", path, harmless=what.startswith("byte "))
    yield from (
        Input(what, "codec", path) for what, path in places(here, ".safetensors")
    )


def save_model(folder: Path) -> None:
    """A released model of all four modalities, with random weights."""
    modalities = {name: load("modalities", name)() for name in NAMES}
    torch.manual_seed(0)
    release.save(make_model(modalities, *SIZES), folder)


def models(folder: Path, whole: Path) -> Iterator[Input]:
    (here := folder / "release").mkdir()
    told = json.loads((whole / "model.json").read_text())

    def changed(*keys: str, value: Any) -> bytes:
        description = json.loads(json.dumps(told))
        node = description
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        return json.dumps(description).encode()

    args = ("method", "args")
    image = (*args, "modalities", "image")
    codec = (*image, "args", "codec")
    own = told["method"]["args"]["modalities"]
    state = dict(safetensors_of(whole))
    first = next(iter(state))
    described = {
        "nothing": b"",
        "a list": b"[]",
        "a number": b"7",
        "null": b"null",
        "lists in lists": b"[" * 100_000,
        "objects in objects": b'{"a":' * 100_000,
        "10,000 digits": b'{"format": ' + b"9" * 10_000 + b"}",
        "not UTF-8": b'{"format": "\xe9"}',
        "cut": json.dumps(told).encode()[:-40],
        "another format": changed("format", value=99),
        "no modalities": changed(*args, "modalities", value={}),
        "a list of modalities": changed(*args, "modalities", value=["text"]),
        "one modality": changed(*args, "modalities", value={"text": own["text"]}),
        "a dot in a name": changed(
            *args, "modalities", value={"a.b": own["text"], "c": own["image"]}
        ),
        "a dotted modality": changed(*image, "name", value="os.system"),
        "a dotted codec": changed(*codec, "name", value="subprocess.Popen"),
        "an entry point's spelling": changed(*codec, "name", value="os:system"),
        "a path for a codec": changed(*codec, "name", value="../../evil"),
        "a list for a codec": changed(*codec, "name", value=["small-image"]),
        "no codec": changed(*codec, value=None),
        "an unknown argument": changed(
            *codec, "args", value={"command": "touch canary"}
        ),
        "an argument of another type": changed(
            *args,
            "modalities",
            "text",
            "args",
            "codec",
            "args",
            "embedding",
            value="many",
        ),
        "a list of arguments": changed(*codec, "args", value=[1]),
        "weights up and out": changed(
            *codec, "args", "weights", value="../../../../etc/passwd"
        ),
        "weights up and in": changed(
            *codec, "args", "weights", value="codecs/../../x.safetensors"
        ),
        "weights from the root": changed(
            *codec, "args", "weights", value="/etc/passwd"
        ),
        "weights that are a folder": changed(
            *codec, "args", "weights", value="codecs/.."
        ),
        "a number for weights": changed(*codec, "args", "weights", value=7),
        "a depth of 10^9": changed(*args, "drift", "depth", value=10**9),
        "a width of 10^18": changed(*args, "drift", "width", value=10**18),
        "a width below zero": changed(*args, "head", "width", value=-8),
        "a width in words": changed(*args, "head", "width", value="wide"),
        "an unknown size": changed(*args, "head", "length", value=3),
        "a list of sizes": changed(*args, "drift", value=[1]),
        "its own depth of 10^9": changed(
            *image, "args", "drift", value={"width": 8, "depth": 10**9, "ratio": 4}
        ),
        "another width": changed(*args, "drift", "width", value=16),
        "a dotted method": changed("method", "name", value="os.system"),
        "no method": changed("method", value=None),
        "a list of choices": changed("sampling", value=[1]),
        "an unknown choice": changed("sampling", "strength", value=3),
        "no steps": changed("sampling", "steps", value=0),
        "no objective": changed(*args, "objective", value=None),
    }
    held = {
        "no weights at all": b"",
        "whole numbers": safetensors(
            {name: tensor.to(torch.int32) for name, tensor in state.items()}
        ),
        "two precisions": safetensors(state | {first: state[first].half()}),
        "another shape": safetensors(state | {first: torch.zeros(1)}),
        "one tensor less": safetensors(
            {name: tensor for name, tensor in state.items() if name != first}
        ),
        "one tensor more": safetensors(state | {"more": torch.zeros(1)}),
        "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
        "cut": safetensors(state)[:-1],
        "a pickle": b"\x80\x04cos\nsystem\n(S'touch canary'\ntR.",
    }
    for number, (what, content) in enumerate([*described.items(), *held.items()]):
        path = shutil.copytree(whole, here / f"bad{number:03}")
        (
            path / ("model.json" if number < len(described) else "model.safetensors")
        ).write_bytes(content)
        yield Input(what, "release", path)
    for file in ("model.json", "model.safetensors"):
        (there := here / file.replace(".", "-")).mkdir()
        for number, (what, place) in enumerate(places(there, ".x")):
            with contextlib.suppress(
                OSError, ValueError
            ):  # names that nothing can have, and what is not there
                path = shutil.copytree(whole, there / f"bad{number:03}")
                (path / file).unlink()
                place.rename(path / file)
                yield Input(f"{what} for {file}", "release", path)


def safetensors_of(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def stores(folder: Path) -> Iterator[Input]:
    """Latent stores whose manifests were forged, checksums and all."""
    (here := folder / "store").mkdir()
    whole = here / "whole"
    write_shard(
        whole / "0.safetensors",
        {"a": torch.ones(4, 3), LINE: torch.arange(4)},
        {"key": "k", "bad": "[]"},
    )
    finish_store(whole, [(["a"], ["0.safetensors"])], {"a": {"codec": "A"}}, "m", "s")
    told = json.loads((whole / MANIFEST).read_text())
    del told["sha256"]
    field, shard = ("fields", "a"), ("strata", 0, "shards", 0)
    forged: dict[str, tuple[tuple, Any]] = {
        "a shard up and out": ((*shard, "file"), "../0.safetensors"),
        "a shard from the root": ((*shard, "file"), "/etc/passwd"),
        "a number for a shard": ((*shard, "file"), 7),
        "a shard with a zero": ((*shard, "file"), "a\0.safetensors"),
        "10^15 rows": ((*shard, "rows"), 10**15),
        "rows below zero": ((*shard, "rows"), -4),
        "rows in words": ((*shard, "rows"), "four"),
        "another type": ((*field, "dtype"), "F64"),
        "a type that there is not": ((*field, "dtype"), "F99"),
        "another shape": ((*field, "shape"), [2**40]),
        "shapes in words": ((*field, "shape"), "wide"),
        "another modality": (("strata", 0, "modalities"), ["b"]),
        "a number for modalities": (("strata", 0, "modalities"), 7),
        "a list of fields": (("fields",), ["a"]),
        "no strata": (("strata",), None),
        "one key more": ((*shard, "more"), 1),
    }
    for number, (what, (keys, value)) in enumerate(forged.items()):
        path = shutil.copytree(whole, here / f"bad{number:03}")
        manifest = json.loads(json.dumps(told))
        node = manifest
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        (path / MANIFEST).write_text(
            json.dumps({"sha256": digest_json(manifest)} | manifest)
        )
        yield Input(what, "store", path)
    for number, content in enumerate(
        (
            b"",
            b"[]",
            b"[" * 100_000,
            b"\xff",
            b'{"format": 2}',
            b'{"format": ' + b"9" * 10_000 + b"}",
        )
    ):
        path = shutil.copytree(whole, here / f"text{number:03}")
        (path / MANIFEST).write_bytes(content)
        yield Input(f"a manifest of {content[:12]!r}", "store", path)


def datasets(folder: Path) -> Iterator[Input]:
    """Folders that somebody else packed, for `flowbind prepare`; the options are those of the door."""
    (here := folder / "dataset").mkdir()
    out = "../" * 12 + "etc/passwd"
    caption = {"image_id": 1, "id": 1, "caption": "a"}
    annotations = "annotations/captions_val2014.json"
    bad: dict[str, tuple[str, str, str | bytes]] = {
        "coco: up and out": (
            "coco",
            annotations,
            json.dumps(
                {"images": [{"id": 1, "file_name": out}], "annotations": [caption]}
            ),
        ),
        "coco: from the root": (
            "coco",
            annotations,
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "/etc/a.jpg"}],
                    "annotations": [caption],
                }
            ),
        ),
        "coco: lists in lists": ("coco", annotations, "[" * 100_000),
        "coco: 10,000 digits": (
            "coco",
            annotations,
            '{"images": ' + "9" * 10_000 + "}",
        ),
        "coco: not UTF-8": ("coco", annotations, b'{"images": "\xe9"}'),
        "flickr30k: up and out": (
            "flickr30k",
            "results.csv",
            f"image_name| comment_number| comment\n{out}.jpg| 0| a\n",
        ),
        "flickr30k: another drive": (
            "flickr30k",
            "results.csv",
            "image_name| comment_number| comment\nC:\\a.jpg| 0| a\n",
        ),
        "flickr30k: a cell of 10^6": (
            "flickr30k",
            "captions.txt",
            "image,caption\na.jpg," + "a" * 10**6 + "\n",
        ),
        "flickr30k: a zero": (
            "flickr30k",
            "captions.txt",
            "image,caption\na\0.jpg,a\n",
        ),
        "flickr30k: not UTF-8": (
            "flickr30k",
            "captions.txt",
            b"image,caption\na.jpg,\xe9\n",
        ),
        "audiocaps: up and out": (
            "audiocaps",
            "test.csv",
            f"audiocap_id,youtube_id,start_time,caption\n1,{out},0,a\n",
        ),
        "audiocaps: no time": (
            "audiocaps",
            "test.csv",
            "audiocap_id,youtube_id,start_time,caption\n1,a,inf,a\n",
        ),
        "pix3d: up and out": (
            "pix3d",
            "pix3d.json",
            json.dumps([{"img": out, "model": out, "category": "a"}]),
        ),
        "pix3d: objects in objects": ("pix3d", "pix3d.json", '[{"img":' * 100_000),
        "vggsound: up and out": ("vggsound", "vggsound.csv", f"{out},1,a,test\n"),
        "vggsound: another split": ("vggsound", "vggsound.csv", "a,1,a,evil\n"),
        "laion-coco: no table": ("laion-coco", "00000.parquet", b"PAR1" + bytes(40)),
        "folder: no words": ("folder", "a.unread", "a"),
        "folder: labels with a zero": ("folder", "labels.csv", "id,a\n1,\0\n"),
        "folder: labels not in UTF-8": ("folder", "labels.csv", b"id,a\n1,\xe9\n"),
        "folder: a label of 10^6": (
            "folder",
            "labels.csv",
            "id,a\n1," + "a" * 10**6 + "\n",
        ),
        "folder: labels without a header": ("folder", "labels.csv", ""),
    }
    for number, (what, (dataset, file, content)) in enumerate(bad.items()):
        path = here / f"bad{number:03}"
        (path / file).parent.mkdir(parents=True)
        (path / file).write_bytes(
            content.encode() if isinstance(content, str) else content
        )
        (path / "val2014").mkdir()
        if file == "labels.csv":
            (path / "1.txt").write_text("a")
        # As csv reads them.
        yield Input(
            what,
            f"prepare {dataset}",
            path,
            harmless=what == "folder: labels with a zero",
        )


def everything(folder: Path, seed: int = 0) -> Iterator[Input]:
    """All inputs, written below a folder."""
    draw = random.Random(seed)
    save_model(folder / "model")
    yield from samples(folder, draw)
    yield from recipes(folder)
    yield from manifests(folder, draw)
    yield from weights(folder, draw)
    yield from models(folder, folder / "model")
    yield from stores(folder)
    yield from datasets(folder)


# Doors


def read(name: str, path: Path) -> None:
    raw = load("modalities", name)().read(path)
    if isinstance(raw, torch.Tensor):
        assert raw.numel()
        assert raw.isfinite().all()


def read_manifest(path: Path) -> None:
    modalities = {name: load("modalities", name)() for name in NAMES}
    manifest = Manifest.read(path, NAMES)
    for sample in manifest.samples:
        for name in sample.values:
            manifest.read_raw(sample, name, modalities[name])


def read_store(path: Path) -> None:
    store = LatentStore(path)
    store.verify()
    for name in store.fields:
        store.all(name)


def use_codec(path: Path) -> None:
    load("codecs", "small-image")(weights=str(path)).net.eval()


def print_codec(path: Path) -> None:
    """Its fingerprint, which any bytes have, but not what is no file; then its network."""
    codec = load("codecs", "small-image")(weights=str(path))
    codec.fingerprint()
    codec.net.eval()


def read_recipe(path: Path) -> None:
    from lightning.pytorch import Trainer

    check_recipe(path, KEYS, Trainer)


def doors(given: Input, folder: Path) -> dict[str, Callable[[], None]]:
    """The doors of the library and of the command line for an input."""
    kind, path = given.door, given.path
    model = folder / "model"

    def command(*arguments: object) -> Callable[[], None]:
        return lambda: main([str(argument) for argument in arguments])

    if kind in NAMES:
        other = "image" if kind == "text" else "text"
        generate = command(
            "generate",
            model,
            "--from",
            f"{kind}={path}",
            "--to",
            other,
            "--out",
            folder / "made",
            "--overwrite",
        )
        # On the command line, no file is a caption itself.
        literal = kind == "text" and not os.path.isfile(path)
        return {"read": lambda: read(kind, path)} | (
            {} if literal else {"generate": generate}
        )
    if kind.startswith("prepare"):
        name = kind.split()[1]
        options = (
            ["--labels", path / "labels.csv"] if (path / "labels.csv").is_file() else []
        )
        options += (
            ["--val-samples", 0, "--test-samples", 0] if name == "flickr30k" else []
        )
        return {
            "prepare": command(
                "prepare",
                name,
                "--source",
                path,
                "--out",
                folder / "prepared",
                *options,
            )
        }
    return {
        "recipe": {
            "check": lambda: read_recipe(path),
            "fit": command("fit", "--config", path),
        },
        "manifest": {"read": lambda: read_manifest(path)},
        "codec": {"net": lambda: use_codec(path), "print": lambda: print_codec(path)},
        "release": {
            "load": lambda: release.load(path),
            "generate": command(
                "generate",
                path,
                "--from",
                "text=a",
                "--to",
                "image",
                "--out",
                folder / "made",
                "--overwrite",
            ),
        },
        "store": {"open": lambda: read_store(path), "verify": command("verify", path)},
    }[kind]


def outcome(door: Callable[[], None]) -> tuple[str, str]:
    """What becomes of an input at a door: refused, read, or worse, and what is said."""
    said = io.StringIO()
    signal.alarm(PATIENCE)
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            door()
        return "read", ""
    except SystemExit as stop:
        lines = [
            line
            for line in said.getvalue().splitlines()
            if line.startswith("flowbind: ")
        ]
        return (
            "refused" if stop.code == 2 and len(lines) == 1 else f"exit {stop.code}"
        ), said.getvalue()
    except (ValueError, OSError) as error:
        return "refused", str(error)
    except Hang:
        return "hang", ""
    except BaseException:
        return "raised", traceback.format_exc()
    finally:
        signal.alarm(0)


def hang(*_: object) -> None:
    raise Hang


def bring_all(folder: Path) -> None:
    """Brings every input to its doors, and prints what became of it."""
    signal.signal(signal.SIGALRM, hang)
    torch.set_num_threads(1)
    from flowbind.cli import recipe  # noqa: F401  what is imported with warnings is not what is looked at

    os.chdir(folder)
    inputs = list(everything(folder))
    for name in NAMES:
        load("modalities", name)().codec.fingerprint()
    warnings.simplefilter("error")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + GROWTH, used + GROWTH))
    for given in inputs:
        for door, call in doors(given, folder).items():
            begin, worked = time.monotonic(), time.process_time()
            became, said = outcome(call)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            told = {
                "what": given.what,
                "kind": given.door,
                "path": str(given.path),
                "harmless": given.harmless,
            }
            told |= {
                "door": door,
                "became": became,
                "said": said,
                "seconds": time.monotonic() - begin,
                "peak": peak,
            }
            told["worked"] = time.process_time() - worked
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    bring_all(Path(sys.argv[1]))
