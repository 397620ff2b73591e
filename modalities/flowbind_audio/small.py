"""The small codec of sounds: an autoencoder of log-mel spectrograms that ships with its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.codec import NeuralCodec
from flowbind_audio.phase import waves
from flowbind_audio.sound import faint
from flowbind_audio.spectrogram import HOP, MELS, RATE, log_mel

SAMPLES = RATE  # of one sound: one second
# Of one sound; the last is centred on sample 16,128: a sound is continued with silence up to there.
FRAMES = 64
CHUNK = 8  # sounds transformed at once: their spectra stay in a processor's cache


class SmallAudio(NeuralCodec):
    """Latents of 64 numbers for sounds of one second at 16 kHz.

    Of a longer sound the first second is encoded; a shorter one is continued with silence. Decoded
    sounds always last one second, and decoding draws nothing at random.

    Args:
        weights: Safetensors file; the weights shipped with the plugin if None.
    """

    shape = (64,)
    shipped: ClassVar[Path] = Path(__file__).parent / "weights" / "small.safetensors"

    def build(self) -> nn.Module:
        return SpectrogramAutoencoder(*self.shape)

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """Log-mel spectrograms, with shape (B, 128, 64), of B waves of any length."""
        parts = []
        for first in range(0, len(raws), CHUNK):
            chunk = [_one_second(raw) for raw in raws[first : first + CHUNK]]
            parts.append(log_mel(torch.stack(chunk)))

        return torch.cat(parts)

    def caveat(self, raw: Tensor) -> str:
        return faint(raw)

    def finish(self, outputs: Tensor) -> list[Tensor]:
        """Waves of B log-mel spectrograms, with shape (B, 128, 64)."""
        sounds: list[Tensor] = []
        for chunk in outputs.split(CHUNK):
            sounds.extend(waves(chunk)[:, :SAMPLES].cpu())

        return sounds


def _one_second(wave: Tensor) -> Tensor:
    beginning = wave[:SAMPLES]
    return F.pad(beginning, (0, (FRAMES - 1) * HOP - len(beginning)))


class SpectrogramAutoencoder(nn.Module):
    """Convolutions over time; the mel bands are channels, so that a note stays where it is.

    Args:
        features: Features of a latent, D.
        width: Channels of the convolutions.
    """

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        # Halves, or transposed doubles, the number of frames.
        by_two: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.encoder = nn.Sequential(
            nn.Conv1d(MELS, width, **by_two),
            ResidualBlock(width),
            nn.Conv1d(width, width, **by_two),
            ResidualBlock(width),
            nn.Conv1d(width, width, **by_two),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(width * FRAMES // 8, features),
            nn.BatchNorm1d(features, affine=False),
        )

        self.decoder = nn.Sequential(
            nn.Linear(features, width * FRAMES // 8),
            nn.Unflatten(1, (width, FRAMES // 8)),
            ResidualBlock(width),
            nn.ConvTranspose1d(width, width, **by_two),
            ResidualBlock(width),
            nn.ConvTranspose1d(width, width, **by_two),
            ResidualBlock(width),
            nn.ConvTranspose1d(width, MELS, **by_two),
        )

    def encode(self, spectrograms: Tensor) -> Tensor:
        """Latents, with shape (B, D), of spectrograms, with shape (B, 128, 64).

        Each feature has zero mean and unit variance over the training data.
        """
        return self.encoder(spectrograms).to(spectrograms.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Spectrograms, with shape (B, 128, 64), of latents, with shape (B, D)."""
        return self.decoder(latents).to(latents.dtype)


class ResidualBlock(nn.Module):
    """Adds what two convolutions over time make of the normalised features, then GELU.

    (B, C, T) -> the same.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.layers(x))
