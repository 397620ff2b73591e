"""The small codec of sounds: an autoencoder of log-mel spectrograms that ships with its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.codec import NeuralCodec
from flowbind_audio.phase import waves
from flowbind_audio.sound import faint
from flowbind_audio.spectrogram import HOP, MELS, RATE, log_mel

SAMPLES = RATE  # of one sound: one second
FRAMES = 64  # of one sound; the last is centred on sample 16,128, so a sound is continued with silence up to there
CHUNK = 8  # sounds transformed at once: their spectra stay in a processor's cache


class SmallAudio(NeuralCodec):
    """Latents of 64 numbers for sounds of one second at 16 kHz.

    Of a longer sound the first second is encoded; a shorter one is continued with silence. Decoded sounds always last
    one second, and decoding draws nothing at random.

    Args:
        weights: a safetensors file; the weights shipped with the plugin if None.
    """

    shape = (64,)
    shipped: ClassVar[Path] = Path(__file__).parent / "weights" / "small.safetensors"

    def build(self) -> nn.Module:
        return SpectrogramAutoencoder(*self.shape)

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """Log-mel spectrograms, with shape (B, 128, 64), of B waves of any length."""
        chunks = (raws[place : place + CHUNK] for place in range(0, len(raws), CHUNK))
        return torch.cat([log_mel(torch.stack([_one_second(raw) for raw in chunk])) for chunk in chunks])

    def caveat(self, raw: Tensor) -> str:
        return faint(raw)

    def finish(self, outputs: Tensor) -> list[Tensor]:
        return [wave for chunk in outputs.split(CHUNK) for wave in waves(chunk)[:, :SAMPLES].cpu()]


def _one_second(wave: Tensor) -> Tensor:
    heard = wave[:SAMPLES]
    return F.pad(heard, (0, (FRAMES - 1) * HOP - len(heard)))


class SpectrogramAutoencoder(nn.Module):
    """Convolutions over time; the mel bands are channels, so that a note stays where it is.

    Encoder (B, 128, 64) -> (B, D), each latent dimension of zero mean and unit variance over the training data;
    decoder (B, D) -> (B, 128, 64).
    """

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        by_two = {"kernel_size": 4, "stride": 2, "padding": 1}  # halves, or transposed doubles, the number of frames
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
        return self.encoder(spectrograms).to(spectrograms.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents).to(latents.dtype)


class ResidualBlock(nn.Module):
    """Adds what two convolutions over time make of the normalised features, then GELU: (B, C, T) -> the same."""

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
