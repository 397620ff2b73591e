"""The modality of sounds: a raw sample is float32 in [-1, 1], mono, 16 kHz, of shape (samples,)."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind.codec import Codec
from flowbind.exhibit import Recording
from flowbind.files import replacing
from flowbind.libraries import require
from flowbind.modality import Modality
from flowbind.nets.mlp import DriftConfig, HeadConfig
from flowbind_audio.files import (
    BY_LIBRARY,
    BY_PROGRAM,
    missing_program,
    read_sound,
    stated_length,
)
from flowbind_audio.judge import AudioJudge
from flowbind_audio.small import SmallAudio
from flowbind_audio.sound import INSTALL, take_sound
from flowbind_audio.spectrogram import RATE, log_mel

PICTURE = 128  # pixels, width and height of a preview
# From silent to loud.
INK = (
    (0, 0, 4),
    (59, 15, 112),
    (140, 41, 129),
    (222, 73, 104),
    (254, 159, 109),
    (252, 253, 191),
)


class Audio(Modality):
    """Sounds.

    Args:
        codec: Codec that turns sounds into latents and back; `SmallAudio` if None.
        drift: Size of this modality's drift net; the model's default if None.
        head: Size of this modality's head; the model's default if None.
        longest: Seconds of a sound at most; a longer one is refused before it fills the memory.
    """

    suffixes = (*BY_LIBRARY, *BY_PROGRAM)
    default_codec = SmallAudio
    default_judge = AudioJudge
    libraries = dict.fromkeys(("soundfile", "soxr"), INSTALL)

    def __init__(
        self,
        codec: Codec | None = None,
        drift: DriftConfig | None = None,
        head: HeadConfig | None = None,
        longest: float = 600.0,
        reads: str | None = None,
    ) -> None:
        super().__init__(codec, drift, head, reads)
        self.longest = longest

    def missing(self, suffix: str) -> str:
        """The program that reads some formats, if this is one of them and it is not there."""
        return missing_program(suffix)

    def read(self, source: str | Path) -> Tensor:
        """Reads a sound as float32 in [-1, 1] at 16 kHz, with shape (samples,).

        Channels are averaged, other rates are resampled (soxr, high quality), and what lies beyond
        1 is cut, if it is not far.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is truncated, damaged, empty, too long or of another format, its numbers
                are on another scale, or what reads it is not installed.
        """
        return read_sound(source, self.longest)

    def figures(self, source: str | Path) -> dict[str, float]:
        """Length in seconds, and samples a second, where the file's head states them."""
        return stated_length(source)

    def accept(self, raw: Any) -> Tensor:
        """A sound as float32 in [-1, 1] at 16 kHz, with shape (samples,), of an array and its rate.

        An array is (samples,), (channels, samples) or (samples, channels): the axis of fewer is
        that of the channels. int16, int32, uint8 and int8 reach from end to end of their dtype,
        floats lie in [-1, 1]. It is at 16 kHz unless its rate in Hz comes with it: as a pair in
        either order, in a mapping with `array` and `sampling_rate`, or in an object with `data` and
        `sample_rate`. What `read` does with a file's samples is done with these.

        Raises:
            ValueError: it is something else, too long, beyond its range, empty, or not finite; one
            line.
        """
        return take_sound(raw, self.longest)

    def write(self, raw: Tensor, path: Path) -> None:
        """Writes a sound as a 16-bit WAV at 16 kHz; reading it gives the same to within 1/65536."""
        content = _file(raw, "WAV")  # libsndfile does not say why a disk refuses
        with replacing(path) as partial:
            partial.write_bytes(content)

    def preview(self, raw: Tensor) -> PIL.Image.Image:
        """The log-mel spectrogram of a second or more, low at the bottom, black up to -70 dB."""
        # All below a second have one scale of time.
        missing = max(0, RATE - len(raw))
        wave = F.pad(raw.cpu(), (0, missing))
        levels = log_mel(wave[None])[0].flip(0)
        shades = levels.add(1).mul(127.5).clamp(0, 255)
        colours = _palette()[shades.byte().numpy()]

        picture = PIL.Image.fromarray(colours)
        size = (PICTURE, PICTURE)
        return picture.resize(size, PIL.Image.Resampling.BILINEAR)

    def exhibit(self, raw: Tensor) -> Recording:
        """The sound itself, as FLAC: the same numbers as in a WAV, in fewer bytes."""
        return Recording(_file(raw, "FLAC"), "audio/flac")


def _file(raw: Tensor, form: str) -> bytes:
    """A sound as the content of a 16-bit file at 16 kHz, of a format of libsndfile's."""
    soundfile = require("soundfile", "a sound", INSTALL)
    levels = (raw * 32768).round().clamp(-32768, 32767)
    samples = levels.to(torch.int16).numpy(force=True)
    data = BytesIO()
    soundfile.write(data, samples, RATE, format=form, subtype="PCM_16")
    return data.getvalue()


def _palette() -> np.ndarray:
    """Colours from silent to loud: uint8 RGB, with shape (256, 3)."""
    ramp = np.linspace(0, len(INK) - 1, 256)
    stops = range(len(INK))
    channels = []
    for channel in zip(*INK, strict=True):
        channels.append(np.interp(ramp, stops, channel))
    palette = np.stack(channels, axis=1)
    return palette.round().astype(np.uint8)
