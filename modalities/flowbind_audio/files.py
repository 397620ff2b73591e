"""Sound files: what libsndfile reads, and what the program ffmpeg decodes where it is installed."""

import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from torch import Tensor

from flowbind.files import open_regular
from flowbind.libraries import require
from flowbind_audio.sound import FASTEST, INSTALL, mono, refuse_long
from flowbind_audio.whole import is_truncated, samples_of

# As libsndfile names them.
FORMATS = (
    "WAV",
    "WAVEX",
    "RF64",
    "W64",
    "FLAC",
    "OGG",
    "MP3",
    "AIFF",
    "AU",
    "CAF",
    "NIST",
)
BY_LIBRARY: tuple[str, ...] = (
    ".wav",
    ".flac",
    ".ogg",
    ".mp3",
    ".oga",
    ".opus",
    ".aif",
    ".aiff",
    ".aifc",
    ".au",
)
BY_LIBRARY += (".snd", ".caf", ".w64", ".rf64", ".sph")
BY_PROGRAM = (".m4a", ".aac", ".wma", ".webm", ".mka", ".amr")
ALLOWED = (
    "WAV, FLAC, OGG, Opus, MP3, AIFF, AU, CAF, W64, RF64, NIST SPHERE; "
    "with ffmpeg M4A, AAC, WMA, WebM, Matroska, AMR"
)
NEEDED = (
    "M4A, AAC, WMA, WebM, Matroska and AMR need the program ffmpeg; "
    "install it, or convert the sound to WAV"
)
# Of what is left to ffmpeg: place and first bytes.
MARKS = {
    4: (b"ftyp",),
    0: (b"\x1aE\xdf\xa3", b"\x30\x26\xb2\x75", b"\xff\xf1", b"\xff\xf9", b"#!AMR"),
}
CONTAINERS = (
    "mov,matroska,asf,aac,amr"  # a playlist by such a name would have other files read
)
# Bytes of a file; what is read of it is bounded by its length in seconds.
LARGEST = 2**36
AU_HEADER = 24  # bytes
BLOCK = 2**20  # samples of all channels, read at a time


def read_sound(source: str | Path, longest: float) -> Tensor:
    """Reads a sound file as one channel of float32 in [-1, 1] at 16 kHz, with shape (samples,).

    Args:
        source: Path of the file.
        longest: Seconds, at most.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is truncated, damaged, empty, too long or of another format, or what reads it
            is not installed.
    """
    with open_regular(source, LARGEST) as file:
        head = file.read(16)
        try:
            if any(head[place:].startswith(marks) for place, marks in MARKS.items()):
                return _read_by_program(source, file, longest)
            return _read_by_library(source, file, longest)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None


def stated_length(source: str | Path) -> dict[str, float]:
    """The `seconds` and the `rate` in Hz that a sound file states; nothing where it states none.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no whole sound file, or what reads it is not installed.
    """
    with open_regular(source, LARGEST) as file:
        head = file.read(16)
        if any(head[place:].startswith(marks) for place, marks in MARKS.items()):
            return {}  # the program would have to read all of it

        soundfile = require("soundfile", "a sound", INSTALL)
        try:
            with soundfile.SoundFile(source) as sound:
                rate = sound.samplerate
                samples = samples_of(file, sound)
        except soundfile.SoundFileError as error:
            reason = str(getattr(error, "error_string", error)).strip(" .")
            raise ValueError(
                f"{source}: not a whole sound file ({reason}); allowed: {ALLOWED}"
            ) from None
    if samples is None:
        return {}
    return {"seconds": samples / rate, "rate": rate}


def _read_by_library(
    source: str | Path,
    file: BinaryIO,
    longest: float,
) -> Tensor:
    """By libsndfile."""
    soundfile = require("soundfile", "a sound", INSTALL)
    try:
        with soundfile.SoundFile(source) as sound:
            if sound.format not in FORMATS:
                raise ValueError(
                    f"a sound in the format {sound.format}; allowed: {ALLOWED}"
                )
            if sound.samplerate > FASTEST:
                raise ValueError(
                    f"a sound at {sound.samplerate} Hz, allowed are {FASTEST}; resample it"
                )

            # A file may state no length: then a little more than allowed is read.
            rate = sound.samplerate
            samples = samples_of(file, sound)
            refuse_long((samples or 0) / rate, longest)
            most = int(longest * rate) + 1 if samples is None else samples

            raw, count = mono(_blocks(sound, most), rate)
            refuse_long(count / rate, longest)
            if is_truncated(file, samples or 0, count):
                raise ValueError("a truncated sound; a part of the file is missing")

    except soundfile.SoundFileError as error:
        reason = str(getattr(error, "error_string", error)).strip(" .")
        raise ValueError(
            f"not a whole sound file ({reason}); allowed: {ALLOWED}"
        ) from None

    return raw


def _blocks(sound: Any, samples: int) -> Iterator[np.ndarray]:
    """So many samples of all channels, with shape (n, channels), from the beginning on."""
    # Or soundfile would seek after each block: GSM cannot, and MP3 comes out otherwise.
    sound.seekable = lambda: False
    size = max(1, BLOCK // sound.channels)
    while len(block := sound.read(min(size, samples), dtype="float32", always_2d=True)):
        samples -= len(block)
        yield block


def missing_program(suffix: str) -> str:
    """What files with a suffix need that is not there; empty if nothing."""
    return NEEDED if suffix in BY_PROGRAM and shutil.which("ffmpeg") is None else ""


def _read_by_program(
    source: str | Path,
    file: BinaryIO,
    longest: float,
) -> Tensor:
    """By way of an AU file of floats, in a pipe."""
    if shutil.which("ffmpeg") is None:
        raise ValueError(NEEDED)

    strict = ("-nostdin", "-v", "error", "-xerror", "-threads", "1")
    allowed = ("-protocol_whitelist", "file,pipe", "-format_whitelist", CONTAINERS)
    output = (
        "-map",
        "0:a:0",
        "-t",
        str(longest + 1),
        "-c:a",
        "pcm_f32be",
        "-f",
        "au",
        "pipe:1",
    )
    command = ["ffmpeg", *strict, *allowed, "-i", f"file:{source}", *output]

    with tempfile.TemporaryFile() as messages:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
        ) as program:
            pipe = program.stdout
            assert pipe is not None
            header = pipe.read(AU_HEADER)
            if len(header) == AU_HEADER:
                start, _, _, rate, channels = struct.unpack_from(">5I", header, 4)
                pipe.read(start - AU_HEADER)
                raw, count = mono(_floats(pipe, channels), rate)

        messages.seek(0)
        complaints = messages.read(2**16).decode(errors="replace").strip().splitlines()

    if is_truncated(file, 0, 0):
        raise ValueError("a truncated sound; a part of the file is missing")
    if program.returncode or complaints or len(header) < AU_HEADER:
        reason = complaints[-1] if complaints else "nothing comes of it"
        raise ValueError(f"a damaged sound, or a file without one ({reason})")

    refuse_long(count / rate, longest)
    return raw


def _floats(stream: IO[bytes], channels: int) -> Iterator[np.ndarray]:
    """Samples of all channels, with shape (n, channels), of a stream of big-endian float32."""
    frame = 4 * channels
    while content := stream.read(max(1, BLOCK // channels) * frame):
        whole = content[: len(content) // frame * frame]
        yield np.frombuffer(whole, ">f4").astype(np.float32).reshape(-1, channels)
