"""Pictures, sounds and clouds that would fill the memory, and what reading each of them takes.

As a program (`python -m tests.memory FOLDER`) it reads each, and every input of `tests.hostile`, in a process of its own,
and prints a JSON line of what became of it and by how much that process had grown at most.
"""

import contextlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import soundfile
import torch
from flowbind_audio.sound import FASTEST
from flowbind_image.memory import MEMORY, bytes_a_pixel

from flowbind.registry import load
from tests import hostile
from tests.hostile import Input

PATIENCE = 120  # seconds
OTHERS = (  # mode, suffix, and how the picture is written
    ("RGB", ".avif", {"subsampling": "4:4:4"}),
    ("RGBA", ".avif", {}),
    ("P", ".gif", {}),
    ("RGB", ".tif", {"compression": "tiff_lzw", "strip_size": 2**30}),
    ("RGBA", ".tif", {"compression": "tiff_adobe_deflate", "strip_size": 2**30}),
    ("F", ".tif", {"compression": "tiff_lzw", "strip_size": 2**30}),
    ("1", ".tif", {"compression": "group4"}),
    ("CMYK", ".tif", {"compression": "tiff_lzw"}),
    ("RGB", ".jp2", {}),
    ("L", ".jp2", {}),
    ("RGB", ".ppm", {}),
    ("I;16", ".pgm", {}),
    ("F", ".pfm", {}),
    ("RGBA", ".tga", {"compression": "tga_rle"}),
    ("RGB", ".qoi", {}),
    ("RGB", ".sgi", {"bpc": 2}),
    ("RGBA", ".dds", {}),
)
PICTURES = (
    ".png",
    ".jpg",
    ".webp",
    ".bmp",
    ".ico",
    *sorted({suffix for _, suffix, _ in OTHERS}),
)
WARM = {
    "image": PICTURES,
    "audio": (".wav", ".flac", ".ogg"),
    "points": (".ply", ".obj"),
}


def within(kind: str, mode: str) -> int:
    """The side in pixels of the largest square picture that is read."""
    file = io.BytesIO()
    PIL.Image.new(mode, (8, 8)).save(file, kind)
    return int((MEMORY / bytes_a_pixel(PIL.Image.open(file))) ** 0.5)


def pictures(folder: Path) -> Iterator[Input]:
    """Just within what is read and just beyond it, and of a middle size in every other format."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned
    kinds = [
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("I;16", "PNG", {}),
        ("RGB", "PNG", {"exif": exif}),
        ("RGB", "BMP", {}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("RGB", "JPEG", {"subsampling": 0, "progressive": True, "exif": exif}),
        ("CMYK", "JPEG", {"progressive": True}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}),
    ]
    for number, (mode, kind, options) in enumerate(kinds):
        side = within(kind, mode)
        for width, height in [(side, side), (side, side + 2)]:
            picture = PIL.Image.new(mode, (width, height))
            if mode == "P":
                picture.putpalette(list(range(256)) * 3)
            path = folder / f"{number}-{height}.{kind.lower()}"
            picture.save(path, kind, **options)
            what = f"{width} x {height} pixels, {mode}, {kind} {', '.join(options)}"
            yield Input(what, "image", path, harmless=height == width)

    PIL.Image.new("RGBA", (2**20, 60)).save(folder / "lines.png")
    yield Input("60 lines of 2^20 pixels", "image", folder / "lines.png", harmless=True)
    side = within("PNG", "L")
    rows = zlib.compress(bytes((side + 1) * side), 9)
    for name, head in (("words", b"zTXta\0\0"), ("profile", b"iCCPa\0\0")):
        bomb = hostile.chunk(head[:4], head[4:] + zlib.compress(bytes(2**30), 9))
        content = hostile.png(side, side, b"", bomb)
        path = folder / f"{name}.png"
        path.write_bytes(
            content[: content.rindex(b"IDAT") - 4] + hostile.chunk(b"IDAT", rows)
        )
        yield Input(
            f"{side} pixels a side and 2^30 bytes of a bomb",
            "image",
            path,
            harmless=True,
        )

    for number, (mode, suffix, options) in enumerate(OTHERS):
        path = folder / f"other{number}{suffix}"
        PIL.Image.new(mode, (2500, 2000)).save(path, **options)
        yield Input(
            f"2500 x 2000 pixels, {mode}, {suffix}", "image", path, harmless=True
        )
    path = folder / "deep.tif"
    path.write_bytes(deep_tiff(2500, 2000))
    yield Input(
        "2500 x 2000 pixels of 64 bits in one strip, .tif", "image", path, harmless=True
    )
    for name, content in icons(8000, 8000).items():
        (folder / f"{name}.ico").write_bytes(content)
        yield Input(
            f"8000 pixels a side in an icon, {name}", "image", folder / f"{name}.ico"
        )


def deep_tiff(width: int, height: int) -> bytes:
    """RGBA of 16 bits each, packed in one strip."""
    strip = zlib.compress(bytes(8 * width * height))
    # Of the table of tags, where the four depths stand, and then the strip.
    end = 14 + 12 * 10
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 4, end),
        (259, 4, 1, 8),
        (262, 4, 1, 2),
        (273, 4, 1, end + 8),
        (277, 4, 1, 4),
        (278, 4, 1, height),
        (279, 4, 1, len(strip)),
        (338, 4, 1, 2),
    ]
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0"
        + struct.pack("<IH", 8, len(tags))
        + table
        + bytes(4)
        + struct.pack("<4H", 16, 16, 16, 16)
        + strip
    )


def icons(width: int, height: int) -> dict[str, bytes]:
    """Icons that are said to have 32 pixels a side, and a picture of another size in them."""
    file = io.BytesIO()
    PIL.Image.new("RGBA", (width, height)).save(file, "PNG")
    plain = struct.pack(
        "<IiiHHIIiiII", 40, width, 2 * height, 1, 24, 0, 0, 0, 0, 0, 0
    ) + bytes(4 * width * height)
    table = struct.pack("<HHHBBBBHH", 0, 1, 1, 32, 32, 0, 0, 1, 24)
    pictures = {"png": file.getvalue(), "dib": plain}
    return {
        name: table + struct.pack("<II", len(data), 22) + data
        for name, data in pictures.items()
    }


def sounds(folder: Path) -> Iterator[Input]:
    """As long as is read, at rates and in numbers of channels that nobody records."""
    for rate, channels, suffix in (
        (FASTEST, 1, ".flac"),
        (48_000, 8, ".flac"),
        (16_000, 1, ".ogg"),
        (8000, 1, ".flac"),
    ):
        path = folder / f"{rate}-{channels}{suffix}"
        with soundfile.SoundFile(
            path, "w", rate, channels, format=suffix[1:].upper()
        ) as file:
            for _ in range(600):
                file.write(np.zeros((rate, channels), np.int16))
        yield Input(
            f"600 s, {rate} Hz, {channels} channels", "audio", path, harmless=True
        )
    path = folder / "channels.ogg"
    soundfile.write(path, np.zeros((48_000, 255), np.float32), 48_000, format="OGG")
    yield Input("255 channels", "audio", path, harmless=True)
    for what, rate, channels, bits, size in (
        ("600 s of 32 bits, none of them stored", FASTEST, 1, 32, 600 * FASTEST * 4),
        ("1,024 channels, none of them stored", 16_000, 1024, 16, 2**31),
    ):
        path = folder / f"{channels}.wav"
        path.write_bytes(hostile.wav(rate, channels, bits, size, b""))
        os.truncate(path, path.stat().st_size + size)
        yield Input(what, "audio", path, harmless=True)
    path = folder / "page.ogg"
    path.write_bytes((folder / "channels.ogg").read_bytes())
    os.truncate(path, 2**32 - 1)
    yield Input("pages, and then 4 GB of nothing", "audio", path)


def inputs(folder: Path) -> Iterator[Input]:
    """All inputs, written below a folder."""
    yield from hostile.samples(folder, random.Random(0))
    (folder / "large").mkdir()
    yield from pictures(folder / "large")
    yield from sounds(folder / "large")


def warm(folder: Path) -> None:
    """Reads a small sample of each kind, so that the libraries that readers import are not counted."""
    folder.mkdir()
    modes = {suffix: mode for mode, suffix, _ in OTHERS}
    for suffix in WARM["image"]:
        PIL.Image.new(modes.get(suffix, "RGB"), (32, 32)).save(folder / f"a{suffix}")
    for suffix in WARM["audio"]:
        soundfile.write(folder / f"a{suffix}", np.zeros(800), 8000)
    (folder / "a.ply").write_bytes(hostile.ply())
    (folder / "a.obj").write_bytes(hostile.OBJ)
    for kind, suffixes in WARM.items():
        for suffix in suffixes:
            load("modalities", kind)().read(folder / f"a{suffix}")


def promised(given: Input) -> int | None:
    """The bytes that a picture is told to take by its header; of icons, which are decoded to be opened, nothing."""
    if (
        given.door != "image"
        or given.path.parent.name != "large"
        or given.path.suffix == ".ico"
    ):
        return None
    with (
        contextlib.suppress(ValueError),
        PIL.Image.open(given.path) as picture,
    ):  # which damaged ones raise
        return bytes_a_pixel(picture) * picture.width * picture.height


def apart(work: Callable[[], Any], result: Path) -> Any:
    """What some work gives, as JSON, done in a process of its own, so that its memory is its own; None if that dies."""
    result.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        try:
            result.write_text(json.dumps(work()))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return json.loads(result.read_text()) if result.is_file() else None


def resident(process: int) -> int:
    """The bytes of memory that a process has; 0 of one that has ended."""
    with contextlib.suppress(OSError, IndexError):
        return (
            int(Path(f"/proc/{process}/statm").read_text().split()[1])
            * resource.getpagesize()
        )
    return 0


def measure(given: Input) -> dict[str, Any]:
    """Reads one input. Returns what became of it, and by how many bytes the process had grown at most."""
    told = promised(given)
    used = resident(os.getpid())
    signal.alarm(PATIENCE)
    try:
        hostile.read(given.door, given.path)
        became, said = "read", ""
    except (ValueError, OSError) as error:
        became, said = "refused", str(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"became": became, "said": said, "growth": peak - used, "promised": told}


def main(folder: Path) -> None:
    """Prints what became of every input."""
    torch.set_num_threads(1)
    warm(folder / "warm")
    written = apart(
        lambda: [
            (*given[:2], str(given.path), given.harmless) for given in inputs(folder)
        ],
        folder / "inputs",
    )
    for what, door, path, harmless in written:
        given = Input(what, door, Path(path), harmless)
        outcome = apart(partial(measure, given), folder / "result")
        died = {"became": "died", "said": "", "growth": 0, "promised": None}
        print(
            json.dumps(
                {"what": what, "kind": door, "harmless": harmless} | (outcome or died)
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
