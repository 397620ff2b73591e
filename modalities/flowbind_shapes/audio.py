"""Sounds: one note.

The shape is the instrument, the colour the note, the size the octave (large is low). Private to a
sound: phase, onset, tuning, vibrato, loudness and noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowbind.libraries import Extra, require
from flowbind_shapes.scene import COLOURS, Scenes

RATE = 16_000  # Hz; a sound lasts one second
LOWEST = 220.0  # Hz, the first note of large
TREMOLO = 9.0  # Hz
INSTALL = Extra("audio")
OCTAVE = np.array([2, 1, 0])  # of small, medium, large

Uniform = Callable[[float, float], np.ndarray]


@dataclass(frozen=True)
class Instrument:
    """A timbre and an envelope.

    Args:
        partials: For each partial its ratio to the note, amplitude, and decay in 1/s.
        attack: Time constant of the rise in s.
        tremolo: Depth of a swell and fade at 9 Hz.
        breath: Loudness of noise beside the tone.
        growth: Delay of each partial after the one before, in s.
    """

    partials: tuple[tuple[float, float, float], ...]
    attack: float
    tremolo: float = 0.0
    breath: float = 0.0
    growth: float = 0.0


INSTRUMENTS = {
    # a pure tone that swells
    "sphere": Instrument(partials=((1, 1.0, 0.0), (2, 0.03, 0.0)), attack=0.22),
    # a plucked string stopped in its middle: odd partials only, gone within half a second
    "cube": Instrument(
        partials=tuple((k, 1 / k, 4.0 + 0.8 * k) for k in (1, 3, 5, 7, 9)),
        attack=0.003,
    ),
    # a breathy pipe
    "cylinder": Instrument(
        partials=((1, 1.0, 0.0), (2, 0.35, 0.0), (3, 0.12, 0.0)),
        attack=0.06,
        breath=0.5,
    ),
    # brass: every partial, the higher the later
    "cone": Instrument(
        partials=tuple((k, k**-0.8, 0.0) for k in range(1, 13)),
        attack=0.03,
        growth=0.02,
    ),
    # a bell: partials that are no multiples of the note
    "torus": Instrument(
        partials=((1, 1.0, 2.0), (2.76, 0.7, 3.0), (5.40, 0.5, 4.5), (8.93, 0.3, 7.0)),
        attack=0.002,
    ),
    # a shimmering reed: tremolo over an octave and a fifth
    "star": Instrument(
        partials=((1, 1.0, 0.0), (2, 0.8, 0.0), (4, 0.6, 0.0), (6, 0.3, 0.0)),
        attack=0.02,
        tremolo=0.85,
    ),
}


def synthesise(
    instrument: Instrument,
    scenes: Scenes,
    generator: np.random.Generator,
) -> np.ndarray:
    """Sounds of n scenes on one instrument: float32 in [-1, 1] of shape (n, 16000)."""
    n = len(scenes)

    def uniform(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, size=(n, 1))

    step = scenes.colour / len(COLOURS)
    octave = OCTAVE[scenes.size] + step
    note = LOWEST * 2 ** octave[:, None]
    # Out of tune by at most a tenth of a semitone.
    detuned = uniform(-0.1 / 12, 0.1 / 12)
    note = note * 2**detuned

    onset = uniform(0.02, 0.10)
    seconds = np.arange(RATE) / RATE
    since = seconds - onset  # s since the onset
    sounding = np.maximum(since, 0).astype(np.float32)

    turns = _turns(note, since, uniform)
    tone = _partials(instrument, note, turns, sounding, uniform)

    # The swell of a reed, faint at the onset, and the breath of a pipe.
    beat = np.cos(2 * np.pi * TREMOLO * since)
    swell = 1 - instrument.tremolo * (0.5 + 0.5 * beat)
    tone *= swell.astype(np.float32)
    breath = instrument.breath * _breath(generator, note)
    rise = 1 - np.exp(-sounding / instrument.attack)
    tone += breath * rise

    # Faded out at the end: no click.
    left = since[:, -1:] - since
    tone *= np.clip(left / 0.05, 0, 1)
    peak = np.abs(tone).max(axis=1, keepdims=True)
    tone /= peak

    loudness = _amplitude(uniform(-9, -2))
    noise = _amplitude(uniform(-60, -46))
    hiss = noise * generator.standard_normal((n, RATE), dtype=np.float32)
    sound = loudness * tone + hiss
    sound = np.clip(sound, -1, 1)
    return sound.astype(np.float32)


def write(sound: np.ndarray, path: Path) -> None:
    """Writes one sound, float32 of shape (16000,), as a 16-bit WAV."""
    soundfile = require("soundfile", "a sound", INSTALL)
    soundfile.write(path, sound, RATE, format="WAV", subtype="PCM_16")


def _amplitude(decibels: np.ndarray) -> np.ndarray:
    """The factor of a level in dB."""
    return 10 ** (decibels / 20)


def _turns(
    note: np.ndarray,
    since: np.ndarray,
    uniform: Uniform,
) -> np.ndarray:
    """The phase (n, 16000) of notes with vibrato, in turns since the onset."""
    vibrato = uniform(4.5, 6.5)  # Hz
    depth = uniform(0.0, 0.12) * np.log(2) / 12  # at most 0.12 semitones
    swing = vibrato * since + uniform(0, 1)
    swing = np.sin(2 * np.pi * swing)
    delay = depth / (2 * np.pi * vibrato)
    return note * (since + delay * swing)


def _partials(
    instrument: Instrument,
    note: np.ndarray,
    turns: np.ndarray,
    sounding: np.ndarray,
    uniform: Uniform,
) -> np.ndarray:
    """The sum of an instrument's partials, float32 (n, 16000).

    Args:
        instrument: Timbre and envelope.
        note: Notes (n, 1) in Hz.
        turns: Phases (n, 16000) of the notes, in turns.
        sounding: Seconds since the onset (n, 16000), 0 before it.
        uniform: Draws numbers (n, 1) between two bounds.
    """
    tone = np.zeros(sounding.shape, dtype=np.float32)
    for order, (ratio, amplitude, decay) in enumerate(instrument.partials):
        phase = turns * ratio + uniform(0, 1)
        phase = 2 * np.pi * (phase - np.floor(phase))
        wave = np.sin(phase.astype(np.float32))

        is_heard = ratio * note < 0.45 * RATE  # none above the Nyquist frequency
        loudness = (np.float32(amplitude) * is_heard).astype(np.float32)
        lasting = np.maximum(sounding - instrument.growth * order, 0)
        rise = 1 - np.exp(-lasting / instrument.attack)
        fall = np.exp(-np.float32(decay) * sounding)
        tone += loudness * wave * rise * fall

    return tone


def _breath(generator: np.random.Generator, note: np.ndarray) -> np.ndarray:
    """Noise of unit variance (n, 16000), an octave wide, around four times the note."""
    noise = generator.standard_normal((len(note), RATE), dtype=np.float32)
    spectrum = np.fft.rfft(noise)
    frequency = np.fft.rfftfreq(RATE, 1 / RATE)
    centre = np.minimum(4 * note, 5000)
    octaves = np.log2(np.maximum(frequency, 1) / centre)
    band = np.exp(-2 * octaves**2)

    filtered = np.fft.irfft(spectrum * band)
    deviation = filtered.std(axis=1, keepdims=True)
    unit = filtered / deviation
    return unit.astype(np.float32)
