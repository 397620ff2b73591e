"""Log-mel spectrograms of sound at 16 kHz: mel bands from low to high, frames in time.

A value is a level, -1 at the floor of -70 dB and about 1 for a sine of full scale.

A frame of 64 ms resolves the harmonics of a low voice, and 128 bands lie at most 21 Hz apart below
300 Hz, where neighbouring notes of a semitone or two are closest; 64 bands would lie 41 Hz apart.
"""

from functools import cache

import torch
from torch import Tensor

RATE = 16_000  # Hz
FFT = 1024  # samples of a frame: 64 ms
HOP = 256  # samples between frames: 16 ms
BINS = FFT // 2 + 1
# Magnitude of a sine of amplitude 1: half the sum of the Hann window.
FULL_SCALE = FFT / 4
MELS = 128
LOWEST, HIGHEST = 40.0, 8000.0  # Hz, ends of the mel bands
FLOOR = 1e-7  # power added to each band: -70 dB, above the hiss of a quiet room


def log_mel(waves: Tensor) -> Tensor:
    """Levels in each mel band, with shape (B, 128, 1 + samples // 256).

    Args:
        waves: Sounds in [-1, 1] at 16 kHz, with shape (B, samples).
    """
    hann = window(waves.device)
    spectrum = torch.stft(
        waves,
        FFT,
        HOP,
        window=hann,
        pad_mode="constant",
        return_complex=True,
    )
    power = torch.view_as_real(spectrum).square().sum(-1) / FULL_SCALE**2
    return level(mel_bands().to(waves.device) @ power)


def level(power: Tensor) -> Tensor:
    """Power in mel bands, 1 for a sine of full scale, to levels of at least -1."""
    return torch.log10(power + FLOOR) * 2 / 7 + 1


def power(level: Tensor) -> Tensor:
    """The inverse of `level`; levels below -1 are silence."""
    return (10 ** ((level - 1) * 3.5) - FLOOR).clamp(min=0)


@cache
def window(device: torch.device) -> Tensor:
    """The Hann window of one frame."""
    return torch.hann_window(FFT, dtype=torch.float32, device=device)


@cache
def mel_bands() -> Tensor:
    """Weights of the frequencies in each mel band, with shape (128, 513).

    Triangles of height 1 that overlap by half. The scale is O'Shaughnessy's (1987), 2595 log10(1 +
    f / 700 Hz).
    """
    ends = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64)
    ends = 2595 * torch.log10(1 + ends / 700)
    first, last = ends.tolist()
    mels = torch.linspace(first, last, MELS + 2, dtype=torch.float64)
    edges = 700 * (10 ** (mels / 2595) - 1)

    frequencies = torch.linspace(0, RATE / 2, BINS, dtype=torch.float64)
    widths = edges.diff()[:, None]
    rising = (frequencies - edges[:-2, None]) / widths[:-1]
    falling = (edges[2:, None] - frequencies) / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0).float()
