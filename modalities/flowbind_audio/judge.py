"""The judge of sounds: a small convolutional network on log-spectrograms."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.judge import NeuralJudge

RATE = 16_000  # Hz
FFT = 1024  # samples of a frame: 64 ms
HOP = 256  # samples between frames: 16 ms
FLOOR = 1e-4  # magnitude added to each: 80 dB below a sine of full scale
CHANNELS = 16, 32, 64, 96  # of maps of 256 x 32, 64 x 16, 16 x 8 and 4 x 4


class AudioJudge(NeuralJudge):
    """Reads labelled factors of the first second of sounds; shorter ones end in silence.

    Args:
        weights: Safetensors file; weights that read the embedded world's factors if None.
    """

    judges = "audio"
    shipped = Path(__file__).parent / "weights" / "judge.safetensors"

    def build(self) -> nn.Module:
        layers: list[nn.Module] = [nn.Unflatten(1, (1, FFT // 2))]
        before = 1
        for channels, down in zip(CHANNELS, (2, 4, 4, 4), strict=True):
            layers += [
                nn.Conv2d(
                    before,
                    channels,
                    kernel_size=5,
                    stride=(down, 2),
                    padding=2,
                ),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
            before = channels

        features = nn.Linear(before * 4 * 4, self.width)
        return nn.Sequential(*layers, nn.Flatten(), features, nn.ReLU())

    def prepare(self, raws: Sequence[Tensor]) -> Tensor:
        """Spectrograms of B waves, float32 with shape (B, 512, 64): levels in decades, 0 at -80 dB."""
        waves = []
        for raw in raws:
            wave = raw[:RATE].float().cpu()
            waves.append(F.pad(wave, (0, RATE - len(wave))))
        return torch.cat([_levels(wave) for wave in waves])


def _levels(wave: Tensor) -> Tensor:
    """The spectrogram of one second, with shape (1, 512, 64)."""
    window = torch.hann_window(FFT)
    spectrum = torch.stft(
        F.pad(wave[None], (0, HOP)),
        FFT,
        HOP,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    magnitude = spectrum.abs()[:, 1:, :64] / (FFT / 4)
    return torch.log10(magnitude / FLOOR + 1)
