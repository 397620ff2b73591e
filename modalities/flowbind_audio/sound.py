"""Sounds as people have them, of any rate, layout and range, as one channel of float32 at 16 kHz.

The dtype gives the range, and nothing else: integers reach from end to end of theirs, floats lie in
[-1, 1]. They may go a little beyond, as in mixes and lossy formats, and are cut.
"""

from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowbind.arrays import as_tensor, describe
from flowbind.libraries import Extra, require
from flowbind_audio.spectrogram import RATE

INSTALL = Extra("audio")
FASTEST = 384_000  # Hz, of what is recorded anywhere
LOUDEST = 4.0  # of full scale, 12 dB above it: what goes further is on another scale
FAINTEST = 1e-3  # of full scale: 10 dB above the floor of spectrograms, 5 bits of 16
CHANNELS = 32  # of an array, at most; more of them are samples
FULL_SCALE = {
    torch.int8: 2.0**7,
    torch.uint8: 2.0**7,
    torch.int16: 2.0**15,
    torch.int32: 2.0**31,
}
ALLOWED = (
    "an array of the shape (samples,), (channels, samples) or (samples, channels), of int16, "
    "int32, uint8, int8, or floats in [-1, 1], at 16 kHz, or such an array and its rate in Hz"
)


def mono(blocks: Iterable[np.ndarray], rate: float) -> tuple[Tensor, int]:
    """Blocks of floats, with shape (n, channels), as one channel at 16 kHz, cut to [-1, 1].

    Channels are averaged, other rates are resampled (soxr, high quality) block by block, so that
    what is in memory is what is returned.

    Returns:
        The sound, with shape (samples,), and how many samples it had at its own rate.

    Raises:
        ValueError: numbers that are not finite or far beyond [-1, 1], no samples, or a rate that no
            sound has.
    """
    resample = _resampler(rate)
    parts = []
    count = 0
    peak = 0.0
    for block in blocks:
        loudest = np.abs(block).max(initial=0)  # not a number, if one of them is none
        if not np.isfinite(loudest):
            raise ValueError("a damaged sound; some samples are not finite numbers")

        count += len(block)
        peak = max(peak, float(loudest))
        if block.shape[1] == 1:
            one = block[:, 0]
        else:
            one = block.mean(axis=1, dtype=np.float32)
        parts.append(resample(one, last=False))

    end = np.empty(0, np.float32)
    parts.append(resample(end, last=True))

    if peak > LOUDEST:
        raise ValueError(
            f"a sound with numbers up to {peak:.4g}, floats lie in [-1, 1]; scale it"
        )

    sound = torch.from_numpy(np.concatenate(parts))
    if not len(sound):
        raise ValueError("a sound without samples; at least one is needed")

    return sound.clamp_(-1, 1), count


def take_sound(value: Any, longest: float) -> Tensor:
    """One channel at 16 kHz, with shape (samples,), of what people have in Python.

    Args:
        value: Array at 16 kHz, or one with its rate: a pair in either order, a mapping with
            `array` and `sampling_rate`, or an object with `data` and `sample_rate`, or one that
            gives such an object by `get_all_samples()`.
        longest: Seconds of a sound, at most.

    Raises:
        ValueError: it is no sound, or a longer one; one line.
    """
    array, rate = _with_rate(value)
    if not 0 < rate <= FASTEST:
        raise ValueError(f"a sound at {rate:g} Hz, allowed are {FASTEST}; resample it")

    values = as_tensor(array, ALLOWED)
    samples = _samples_first(values, array)
    refuse_long(len(samples) / rate, longest)

    is_raw = rate == RATE and values.ndim == 1
    if is_raw and values.dtype == torch.float32 and values.abs().max() <= 1:
        return values

    name = describe(array)
    try:
        block = _floats(samples, name)
        sound, _ = mono([block], rate)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None

    return sound


def faint(sound: Tensor) -> str:
    """What becomes of a sound near a codec's floor, in half a line; empty of silence and others."""
    peak = sound.abs().max().item()
    if not 0 < peak < FAINTEST:
        return ""

    return f"never gets louder than {peak:.2g} of full scale, which is heard as silence; amplify it"


def refuse_long(seconds: float, longest: float) -> None:
    """Raises ValueError where a sound lasts longer than allowed, both in seconds."""
    if seconds > longest:
        raise ValueError(
            f"a sound of {seconds:.4g} s, allowed are {longest:.4g}; cut it, or raise `longest`"
        )


def _with_rate(value: Any) -> tuple[Any, float]:
    """An array and its rate, 16 kHz if nothing tells it."""
    decode = getattr(value, "get_all_samples", None)
    if callable(decode):
        value = decode()

    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():
        return value["array"], _rate(value["sampling_rate"])
    if hasattr(value, "data") and hasattr(value, "sample_rate"):
        return value.data, _rate(value.sample_rate)

    if isinstance(value, tuple | list) and len(value) == 2:
        rates: list[Any] = []
        arrays: list[Any] = []
        for part in value:
            parts = rates if _is_scalar(part) else arrays
            parts.append(part)
        if len(rates) == len(arrays) == 1:
            return arrays[0], _rate(rates[0])

    return value, RATE


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Real) or getattr(value, "ndim", 1) == 0


def _rate(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"a sound whose rate is {describe(value)}; allowed: {ALLOWED}"
        ) from None


def _samples_first(values: Tensor, array: Any) -> Tensor:
    """Samples, with shape (samples, channels): the channels are the shorter axis, and few."""
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim == 1:
        return values[:, None]
    if values.ndim != 2 or min(values.shape) > CHANNELS:
        raise ValueError(f"{describe(array)} is not one sound; allowed: {ALLOWED}")

    first, last = values.shape
    channels_first = first < last
    if first == last:
        channels_first = isinstance(array, Tensor)
    return values.T if channels_first else values


def _floats(values: Tensor, name: str) -> np.ndarray:
    """Samples in the range that their dtype gives, as float32 with full scale at 1."""
    if values.is_floating_point():
        return np.ascontiguousarray(values.float().numpy())
    if values.dtype not in FULL_SCALE:
        raise ValueError(
            f"{name}: its dtype does not tell the range; allowed: {ALLOWED}"
        )

    centre = 128 if values.dtype == torch.uint8 else 0
    levels = (values.float() - centre).numpy()
    return np.ascontiguousarray(levels / FULL_SCALE[values.dtype])


def _resampler(rate: float) -> Callable[..., np.ndarray]:
    """Turns one block after another into what it is at 16 kHz; `last` ends the sound."""
    if rate == RATE:
        return lambda block, last: block

    soxr = require("soxr", f"a sound at {rate:g} Hz", INSTALL)
    return soxr.ResampleStream(rate, RATE, 1, dtype="float32").resample_chunk
