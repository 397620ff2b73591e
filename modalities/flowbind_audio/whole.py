"""The length of a sound that its header states and libsndfile ignores: too little, or too much."""

import mmap
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

CHUNKS = 1000  # looked through at most
STREAMED = 0x7FFFF000  # bytes; what claims more was written to a pipe, before its length was known
PAGE = 65_307  # bytes of a page of an OGG, at most
FRAME = 1152  # samples of a frame of an MP3
GUID = 16  # bytes of a name in a W64
UNKNOWN = 2**60  # samples, as libsndfile counts a FLAC that does not say
# First words of subtypes that bytes count.
PLAIN = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")
PADDING = 8192  # samples that the last block of a compressed WAV has beyond its sound, at most

# GSM 6.10 in a WAV: its format tag, and bytes and samples of a block.
GSM = 0x31
GSM_BLOCK = 65
GSM_SAMPLES = 320

# The object with the properties of a WMA file: its name, and how far it is looked for.
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
ASF_HEADER = 2**16


class Chunks(NamedTuple):
    """How a file's chunks are laid out: a name, a length, and the bytes."""

    start: int  # of the first chunk
    head: str  # of a chunk: name and length, for struct
    samples: bytes  # name of the chunk that holds them
    even: bool = True  # whether chunks start at even places


LAYOUTS = {
    b"RIFF": Chunks(12, "<4sI", b"data"),
    b"RIFX": Chunks(12, ">4sI", b"data"),
    b"RF64": Chunks(12, "<4sI", b"data"),
    b"BW64": Chunks(12, "<4sI", b"data"),
    b"FORM": Chunks(12, ">4sI", b"SSND"),  # AIFF
    b"caff": Chunks(8, ">4sq", b"data", even=False),
}


def is_truncated(file: BinaryIO, promised: int, read: int) -> bool:
    """Whether the end of a sound file is missing.

    Args:
        file: Open file, not empty.
        promised: Samples a channel, as libsndfile reads them from the header.
        read: Samples a channel that were there.
    """
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        mark = data[:4]
        is_tagged = mark[:3] == b"ID3"
        is_frame = mark[:1] == b"\xff" and mark[1:2] >= b"\xe0"
        # Some MP3 count their first frame, some do not.
        if is_tagged or is_frame:
            return read < promised - 2 * FRAME
        if read < promised:
            return True
        if mark in LAYOUTS:
            return _lacks_samples(data, LAYOUTS[mark])

        lacks = OTHERS.get(mark, _never)
        return lacks(data)


def samples_of(file: BinaryIO, sound: Any) -> int | None:
    """Samples a channel of a file that soundfile opened as `sound`; None if nothing tells.

    A compressed WAV says where in its last block the sound ends. Beyond lies the encoder's padding,
    or noise at full scale, where the block is not there at all.
    """
    if sound.frames >= UNKNOWN:
        return None
    if sound.format not in ("WAV", "WAVEX") or sound.subtype.startswith(PLAIN):
        return sound.frames

    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stated = _stated_by_wav(data)

    if 0 < stated < sound.frames <= stated + PADDING:
        return stated
    return sound.frames


def _stated_by_wav(data: mmap.mmap) -> int:
    """Samples a channel as a WAV counts them, or those of the whole blocks of GSM; 0 otherwise."""
    layout = LAYOUTS.get(data[:4], LAYOUTS[b"RIFF"])
    order = layout.head[0]
    tag = 0
    for name, place, length in _chunks(data, layout):
        if place + 4 > len(data):
            break
        if name == b"fmt ":
            (tag,) = struct.unpack_from(f"{order}H", data, place)
        elif name == b"fact":
            (samples,) = struct.unpack_from(f"{order}I", data, place)
            return samples
        elif name == b"data" and tag == GSM:
            blocks = length // GSM_BLOCK
            return blocks * GSM_SAMPLES
        elif name == b"data":
            return 0

    return 0


def _chunks(data: mmap.mmap, layout: Chunks) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the content and stated length of one chunk after another."""
    place = layout.start
    size = struct.calcsize(layout.head)
    for _ in range(CHUNKS):
        if place + size > len(data):
            return

        name, length = struct.unpack_from(layout.head, data, place)
        place += size
        yield name, place, length
        if length < 0:
            return
        if layout.even:
            length += length % 2
        place += length


def _lacks_samples(data: mmap.mmap, layout: Chunks) -> bool:
    """Whether the chunk of samples is stated to be longer than the rest of the file."""
    long = None  # what a chunk of more than 4 GB has for its length, in RF64
    for name, place, length in _chunks(data, layout):
        if name == b"ds64" and place + 16 <= len(data):
            (long,) = struct.unpack_from("<Q", data, place + 8)
        if name == layout.samples:
            if long is not None and length == 0xFFFFFFFF:
                length = long
            is_streamed = length < 0 or (long is None and length >= STREAMED)
            return not is_streamed and place + length > len(data)

    return False


def _lacks_ogg(data: mmap.mmap) -> bool:
    """Whether the last page does not end its stream, or is not all there (RFC 3533, section 6)."""
    begin = data.rfind(b"OggS", max(0, len(data) - PAGE))
    page = data[begin:]
    if len(page) < 27 or not page[5] & 4:
        return True

    segments = page[26]
    head = 27 + segments
    return len(page) < head + sum(page[27:head])


def _lacks_au(data: mmap.mmap) -> bool:
    if len(data) < 12:
        return False

    start, length = struct.unpack_from(">II", data, 4)
    return length < STREAMED and start + length > len(data)


def _lacks_w64(data: mmap.mmap) -> bool:
    """By the length of the whole file."""
    if len(data) < GUID + 8:
        return False

    (length,) = struct.unpack_from("<Q", data, GUID)
    return length < 2**63 and length > len(data)


def _lacks_nist(data: mmap.mmap) -> bool:
    """By what the header counts, where samples are not packed."""
    start = 0
    if data[8:16].strip().isdigit():
        start = int(data[8:16])

    counts = re.findall(rb"^(\w+) -i (\d+)", data[:start], re.MULTILINE)
    header = dict(counts)
    length = start
    if header.keys() >= {b"sample_count", b"sample_n_bytes", b"channel_count"}:
        samples = int(header[b"sample_count"])
        width = int(header[b"sample_n_bytes"])
        channels = int(header[b"channel_count"])
        length += samples * width * channels

    return length > len(data)


def _lacks_asf(data: mmap.mmap) -> bool:
    """By the length of the whole file, behind the object's name and length and another name."""
    place = data.find(ASF_FILE, 0, ASF_HEADER)
    place_of_length = place + 2 * GUID + 8
    if place < 0 or place_of_length + 8 > len(data):
        return False

    (length,) = struct.unpack_from("<Q", data, place_of_length)
    return length > len(data)


def _never(data: mmap.mmap) -> bool:
    return False


OTHERS = {
    b"OggS": _lacks_ogg,
    b".snd": _lacks_au,
    b"riff": _lacks_w64,
    b"NIST": _lacks_nist,
    b"\x30\x26\xb2\x75": _lacks_asf,
}
