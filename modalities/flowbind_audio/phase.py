"""From log-mel spectrograms back to waves.

Three steps, the same for every sound and without chance: the power spectrum whose mel bands are the
given ones (expectation-maximisation for a Poisson mean, Richardson 1972, Lucy 1974, which keeps
powers positive and peaks narrow); a carrier in which each spectral peak turns as the sinusoid it
stands for (single-pass spectrogram inversion, Beauregard, Harish and Wyse, DAFx 2015) and the rest
is white noise; and a few rounds of fast Griffin-Lim (Perraudin, Balazs and Søndergaard, WASPAA
2013), which need no more than that from so near a start.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from flowbind_audio.spectrogram import (
    BINS,
    FFT,
    FULL_SCALE,
    HOP,
    mel_bands,
    power,
    window,
)

SHARPENING = 40  # rounds of expectation-maximisation
ROUNDS = 4  # of Griffin-Lim
MOMENTUM = 0.99  # Perraudin et al., section 4
LOBE = 2  # bins from a Hann window's peak to its first zero
PROMINENCE = (
    1.0  # a peak has this many times the power one lobe further out; less is noise
)


def waves(levels: Tensor) -> Tensor:
    """Waves in [-1, 1] with given log-mel spectrograms: (B, 128, T) -> (B, 256 (T - 1))."""
    magnitude = linear_power(power(levels)).sqrt()
    magnitude = magnitude * FULL_SCALE
    wave = griffin_lim(magnitude * carrier(magnitude))
    return wave.clamp(-1, 1)


def linear_power(mel: Tensor) -> Tensor:
    """Powers at all frequencies whose mel bands are given: (B, 128, T) -> (B, T, 513).

    They are 0 outside the bands.
    """
    bands, back = _sparse_bands(mel.device)
    target = mel.transpose(0, 1).flatten(1)  # (128, B * T): one sparse product for all

    # From 1 inside the bands; each round multiplies by how much too small the bands come out.
    is_covered = mel_bands().sum(0) > 0
    estimate = is_covered.to(mel)[:, None]
    estimate = estimate.expand(BINS, target.shape[1])
    for _ in range(SHARPENING):
        present = (bands @ estimate).clamp(min=1e-12)
        shortfall = target / present
        estimate = estimate * (back @ shortfall)

    estimate = estimate.T.contiguous()
    return estimate.unflatten(0, (len(mel), -1))


@cache
def _sparse_bands(device: torch.device) -> tuple[Tensor, Tensor]:
    """The mel bands, and their transpose with rows that sum to 1."""
    bands = mel_bands().to(device)
    weight = bands.sum(0).clamp(min=1e-9)
    back = bands.T / weight[:, None]
    return bands.to_sparse(), back.to_sparse()


def carrier(magnitude: Tensor) -> Tensor:
    """A spectrum of unit power to be shaped by the magnitude: (B, T, 513) -> the same.

    Around a peak it is one sinusoid's, with its frequency at the vertex of a parabola through three
    bins' logarithms; its phase turns on from frame to frame, also where the peak moves, and
    alternates over the bins of a lobe, as a Hann window makes it. Elsewhere it is noise, always the
    same.
    """
    place = torch.arange(BINS, device=magnitude.device)
    frequency = _peak_frequencies(magnitude.clamp(min=1e-9).log())
    is_tonal = frequency > 0
    centre = torch.where(is_tonal, frequency.round().long(), place)
    turn = 2 * math.pi * HOP / FFT * frequency

    # Frame by frame, a peak's phase is that of its centre in the frame before, turned on.
    frames = magnitude.shape[1]
    noise = white_noise(frames, magnitude.device)
    scattered = noise.angle()
    phase = scattered[0].expand(len(magnitude), BINS)
    phases = []
    for frame in range(frames):
        before = phase.gather(1, centre[:, frame])
        turned = before + turn[:, frame]
        phase = torch.where(is_tonal[:, frame], turned, scattered[frame])
        phases.append(phase)

    phase = torch.stack(phases, 1) + math.pi * place
    sinusoids = torch.polar(torch.ones_like(phase), phase)
    return torch.where(is_tonal, sinusoids, noise)


def _peak_frequencies(log: Tensor) -> Tensor:
    """The frequency in bins of the peak around each bin, -1 where there is none.

    From logarithms of magnitudes: (B, T, 513) -> the same.
    """
    padded = F.pad(log, (2 * LOBE, 2 * LOBE), value=0.0)  # no peak at either end

    def shifted(bins: int) -> Tensor:
        first = 2 * LOBE + bins
        return padded[..., first : first + BINS]

    below = shifted(-1)
    above = shifted(1)
    around = torch.maximum(shifted(-2 * LOBE), shifted(2 * LOBE))
    is_prominent = log - around > math.log(PROMINENCE) / 2
    is_highest = (log > below) & (log >= above)
    is_peak = is_highest & is_prominent

    # The vertex of the parabola through three bins, then over the bins of its lobe.
    place = torch.arange(BINS, device=log.device)
    curvature = below - 2 * log + above
    curvature = curvature.clamp(max=-1e-6)
    vertex = 0.5 * (below - above) / curvature
    vertex = vertex.clamp(-0.49, 0.49)
    frequency = torch.where(is_peak, place + vertex, -1.0)
    return F.max_pool1d(
        frequency,
        kernel_size=2 * LOBE + 1,
        stride=1,
        padding=LOBE,
    )


@cache
def white_noise(frames: int, device: torch.device) -> Tensor:
    """The spectrum of white noise, with shape (T, 513) and a mean power of 1."""
    generator = torch.Generator().manual_seed(0)
    size = (frames - 1) * HOP
    wave = torch.randn(size, dtype=torch.float32, generator=generator)
    spectrum = _spectrum(wave.to(device))
    power_of_window = window(device).square().sum()
    return spectrum / power_of_window.sqrt()


def _spectrum(wave: Tensor) -> Tensor:
    """The spectrum of waves: (*, samples) -> (*, T, 513)."""
    hann = window(wave.device)
    spectrum = torch.stft(
        wave,
        FFT,
        HOP,
        window=hann,
        pad_mode="constant",
        return_complex=True,
    )
    return spectrum.mT


def griffin_lim(spectrum: Tensor) -> Tensor:
    """Waves whose spectrum has nearly the magnitude of the given one, which lends the first phase.

    (B, T, 513) -> (B, 256 (T - 1)).
    """
    magnitude = spectrum.abs()
    hann = window(spectrum.device)
    before = torch.zeros_like(spectrum)
    for _ in range(ROUNDS):
        wave = torch.istft(spectrum.mT, FFT, HOP, window=hann)
        consistent = _spectrum(wave)
        ahead = torch.add(consistent, consistent - before, alpha=MOMENTUM)
        spectrum = magnitude * ahead.sgn()
        before = consistent

    return torch.istft(spectrum.mT, FFT, HOP, window=hann)
