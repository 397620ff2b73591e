"""The modality of sounds: a raw sample is a float32 tensor in [-1, 1], mono at 16 kHz, with shape (samples,)."""

import mmap
import struct
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.atomic import replacing
from flowbind.codec import Codec
from flowbind.modality import Modality
from flowbind.nets import DriftConfig, HeadConfig
from flowbind.regular import open_regular
from flowbind_audio.small import SmallAudio
from flowbind_audio.spectrogram import RATE, log_mel

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")  # as libsndfile names them
LARGEST = 2**32  # bytes of a file, as many as a WAV can state
FASTEST = 384_000  # Hz, of what is recorded anywhere
BLOCK = 2**20  # samples of all channels, read at a time
CHUNKS = 1000  # of a WAV, looked through at most
STREAMED = 0x7FFFF000  # bytes; a WAV that claims more was written to a pipe, before its length was known
PICTURE = 128  # pixels, width and height of a preview
INK = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))  # silent to loud


class Audio(Modality):
    """Sounds.

    Args:
        codec: turns sounds into latents and back; `SmallAudio` if None.
        drift: size of this modality's drift net; the model's default if None.
        head: size of this modality's head; the model's default if None.
        longest: seconds of a file at most; a longer one is refused before it fills the memory.
    """

    suffixes = (".wav", ".flac", ".ogg")
    default_codec = SmallAudio

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        longest: float = 600.0,
    ) -> None:
        super().__init__(codec, drift, head)
        self.longest = longest

    def read(self, source: str | Path) -> Tensor:
        """Reads a sound as float32 in [-1, 1] at 16 kHz, with shape (samples,).

        Channels are averaged, other rates are resampled (soxr, high quality), and what lies beyond 1 is cut.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, empty, too long or of another format.
        """
        import soundfile

        try:
            with open_regular(source, LARGEST) as whole, soundfile.SoundFile(source) as file:
                self._refuse_large(source, file)
                rate, promised = file.samplerate, file.frames
                blocks = file.blocks(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)
                sound = np.concatenate([block.mean(axis=1) for block in blocks] or [np.empty(0, np.float32)])
                if len(sound) < promised or _truncated(whole):
                    raise ValueError(f"{source}: a truncated sound; a part of the file is missing")
        except soundfile.SoundFileError as error:
            why = str(getattr(error, "error_string", error)).strip(" .")
            raise ValueError(f"{source}: not a whole sound file ({why}); allowed: WAV, FLAC, OGG") from None
        if not np.isfinite(sound).all():
            raise ValueError(f"{source}: a damaged sound; some samples are not finite numbers")
        if rate != RATE:
            import soxr

            sound = soxr.resample(sound, rate, RATE)
        if not len(sound):
            raise ValueError(f"{source}: a sound without samples; at least one is needed")
        return torch.from_numpy(sound).clamp(-1, 1)

    def _refuse_large(self, source: str | Path, file) -> None:
        """By what the header says: before anything is read, since a small file can promise or hold much."""
        if file.format not in FORMATS:
            raise ValueError(f"{source}: a sound in the format {file.format}; allowed: WAV, FLAC, OGG")
        if file.samplerate > FASTEST:
            raise ValueError(f"{source}: a sound at {file.samplerate} Hz, allowed are {FASTEST}; resample it")
        if file.frames > self.longest * file.samplerate:
            length = file.frames / file.samplerate
            raise ValueError(
                f"{source}: a sound of {length:.0f} s, allowed are {self.longest:.0f}; cut it, or raise `longest`"
            )

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes a sound as a 16-bit WAV at 16 kHz, so that reading it gives the same to within 1/65536."""
        import soundfile

        samples = (raw * 32768).round().clamp(-32768, 32767).to(torch.int16).numpy(force=True)
        data = BytesIO()  # libsndfile does not say why a disk refuses
        soundfile.write(data, samples, RATE, format="WAV", subtype="PCM_16")
        with replacing(path) as partial:
            partial.write_bytes(data.getvalue())

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """The log-mel spectrogram, a second or more, low frequencies at the bottom, from -70 dB (black) up."""
        wave = F.pad(raw.cpu(), (0, max(0, RATE - len(raw))))  # all below a second have one scale of time
        levels = log_mel(wave[None])[0].flip(0).add(1).mul(127.5).clamp(0, 255).byte().numpy()
        ramp = np.linspace(0, len(INK) - 1, 256)
        ink = np.stack([np.interp(ramp, range(len(INK)), channel) for channel in zip(*INK, strict=True)], axis=1)
        picture = PIL.Image.fromarray(ink.round().astype(np.uint8)[levels])
        return picture.resize((PICTURE, PICTURE), PIL.Image.Resampling.BILINEAR)


def _truncated(file: BinaryIO) -> bool:
    """Whether the end of a WAV or OGG file is missing, which libsndfile passes over in silence."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _truncated_ogg(data) if data[:4] == b"OggS" else _truncated_wav(data)


def _truncated_wav(data: mmap.mmap) -> bool:
    """Whether the data chunk is stated to be longer than the rest of the file."""
    order = {b"RIFF": "<", b"RIFX": ">"}.get(data[:4])
    place = 12  # past "RIFF", the length and "WAVE"
    for _ in range(CHUNKS if order else 0):
        if place + 8 > len(data):
            break
        name, length = struct.unpack_from(f"{order}4sI", data, place)
        place += 8
        if name == b"data":
            return length < STREAMED and place + length > len(data)
        place += length + length % 2  # chunks start at even places
    return False


def _truncated_ogg(data: mmap.mmap) -> bool:
    """Whether the last page is not marked as the end of its stream, or not all there (RFC 3533, section 6)."""
    page = data[data.rfind(b"OggS") :]
    if len(page) < 27 or not page[5] & 4:
        return True
    segments = page[26]
    return len(page) < 27 + segments + sum(page[27 : 27 + segments])
