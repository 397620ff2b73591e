"""Whether a codec keeps on given samples what it promises: how much its round trip loses.

A codec that was trained on one world encodes any other without a complaint, and every result that
follows is of what is left. So a codec may promise an error that nearly all samples of its own kind
stay below (`Codec.promise`); a few of the samples to be encoded are decoded again, and where most
of them lose far more, a line says so.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbind.codec import PROMISED, Codec
from flowbind.files import replacing

# Of the samples that a codec was made for, those that stay below the promised error.
SHARE = 0.95
FACTOR = 2.0  # how far above it the median of others is before a line says so
LOOKED_AT = 64  # samples, at most
GLANCED_AT = 16  # samples of these, which show where the promise is kept
FEWEST = 4  # of fewer samples nothing can be said


def round_trip(
    codec: Codec,
    raws: Sequence[Any],
    latents: Tensor | None = None,
) -> Tensor:
    """The error of each of B raw samples that goes through its latent and back.

    Args:
        codec: Codec that promises an error.
        raws: Samples, B of them.
        latents: Latents of the samples, with shape (B, *shape), if they are known.

    Returns:
        Errors, with shape (B,), on the CPU.
    """
    latents = codec.encode(raws) if latents is None else latents
    generator = torch.Generator(codec.device).manual_seed(0)
    decoded = codec.decode(latents, generator)
    return codec.errors(raws, decoded).detach().cpu()


def measure(codec: Codec, raws: Sequence[Any]) -> float:
    """The error that a codec can promise, from samples of the kind that it was made for."""
    errors = round_trip(codec, raws).double()
    return errors.quantile(SHARE).item()


def write_promise(codec: Codec, raws: Sequence[Any], path: Path) -> None:
    """Measures what a codec can promise, and writes it beside its weights: JSON, to four digits."""
    error = measure(codec, raws)
    if math.isfinite(error):
        with replacing(path) as partial:
            promise = {PROMISED: float(f"{error:.4g}"), "samples": len(raws)}
            partial.write_text(json.dumps(promise) + "\n")


def can_decode(codec: Codec) -> bool:
    """Whether the codec decodes, and this machine has what that needs; encoding may need less."""
    if not codec.decodes:
        return False
    try:
        codec.check_libraries("decode")
    except ValueError:
        return False
    return True


class Promises:
    """What codecs promise, held against the first samples that each of them encodes."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def look(
        self,
        name: str,
        codec: Codec,
        raws: Sequence[Any],
        latents: Tensor,
    ) -> str | None:
        """One line where a codec was made for other samples than these.

        None if it was not, or promises nothing.

        Args:
            name: Name of the modality.
            codec: Codec of the modality.
            raws: Samples that it encoded, B of them.
            latents: Latents of the samples, with shape (B, *shape).
        """
        if name in self.seen or len(raws) < FEWEST:
            return None

        self.seen.add(name)
        promised = codec.promise()
        if promised is None or not can_decode(codec):
            return None

        # The median of a codec's own kind is far below what 95 of 100 stay below, so few show that.
        errors = round_trip(codec, raws[:GLANCED_AT], latents[:GLANCED_AT])
        if errors.median() <= promised:
            return None

        count = min(len(raws), LOOKED_AT)
        if count > GLANCED_AT:
            rest = slice(GLANCED_AT, count)
            more_errors = round_trip(codec, raws[rest], latents[rest])
            errors = torch.cat([errors, more_errors])

        error = errors.median().item()
        if error <= FACTOR * promised:
            return None

        return (
            f"'{name}': the codec {type(codec).__name__} was made for other samples than these: it "
            f"loses {error:.3g} of them (the median of {count}), of its own kind less than "
            f"{promised:.3g} (of {SHARE:.0%}); train it on these, or take another "
            "(docs/your-own-files.md)"
        )
