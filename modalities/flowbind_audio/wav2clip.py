"""Wav2CLIP: embeddings of sounds in the space of CLIP ViT-B/32.

A cosine there tells how well sound and picture fit.

Wu et al., "Wav2CLIP: learning robust audio representations from CLIP" (ICASSP 2022, arXiv
2110.11499). Constants and names of weights are those of the authors' package wav2clip 0.1.0: a
spectrogram is seen as a picture of one channel by a ResNet-18, and two layers take what that sees
to CLIP's space.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowbind.codec import Codec
from flowbind.files import digest
from flowbind.libraries import Extra, importing
from flowbind_audio.clap import load_weights, local_weights
from flowbind_audio.spectrogram import RATE

FFT = 512  # samples of a frame: 32 ms
HOP = 353  # samples between frames: 22 ms
OFFSET = 1e-7  # added to the power before the logarithm
LEAST = 1e-9  # added to the standard deviation before it divides
# Samples; the ends are continued by the reflection of half a frame.
SHORTEST = FFT // 2 + 1
WIDTH = 512  # of an embedding, and of what the ResNet sees
TOGETHER = 160 * RATE  # samples embedded at once
# Of a checkpoint; its other weights are of training.
PARTS = (
    "audio_encoder.",
    "audio_transform.",
)
WINDOW = "audio_encoder.spectrogram."  # the Hann window is no weight
INSTALL = Extra("metrics")
RELEASE = "get Wav2CLIP.pt from the releases of https://github.com/descriptinc/lyrebird-wav2clip"


class Wav2Clip(Codec):
    """Sounds to embeddings of 512 numbers, not normalised.

    There is no way back, so it serves metrics such as AIS. The whole sound is heard, whatever its
    length, as the reference hears what it is given; it was trained on VGGSound's clips of ten
    seconds. A spectrogram is standardised over itself. The reference does so over the whole batch,
    so one sound at a time has the same embedding there and here, and here its neighbours never
    change it.

    Args:
        weights: Weights of Wav2CLIP, which are not shipped: the released checkpoint of torch, or
            safetensors of the same names.
    """

    shape = (WIDTH,)

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights

    @property
    def file(self) -> Path:
        """The weights.

        Raises:
            ValueError: there are none.
        """
        return local_weights("Wav2CLIP", self.weights, RELEASE)

    def libraries(self, use: str) -> dict[str, Extra]:
        return {"torchvision": INSTALL} if use == "encode" else {}

    def files(self) -> dict[str, Path]:
        return {} if self.weights is None else {"weights": Path(self.weights)}

    @cached_property
    def net(self) -> nn.Module:
        """The frozen network; raises as `load_wav2clip` does."""
        return load_wav2clip(self.file).to(self.device)

    @torch.inference_mode()
    def encode(self, raws: Sequence[Tensor]) -> Tensor:
        """Embeds B sounds at 16 kHz, of any lengths: float32, with shape (B, 512).

        Sounds of one length go together.
        """
        rows_of: dict[int, list[int]] = {}
        for row, raw in enumerate(raws):
            length = max(len(raw), SHORTEST)
            rows_of.setdefault(length, []).append(row)

        latents = torch.empty(
            len(raws),
            WIDTH,
            dtype=torch.float32,
            device=self.device,
        )
        for length, rows in rows_of.items():
            together = max(1, TOGETHER // length)
            for part in torch.tensor(rows).split(together):
                waves = _padded([raws[row] for row in part], length)
                waves = waves.to(self.device, torch.float32)
                latents[part] = self.net(spectrograms(waves))

        return latents

    def decode(
        self,
        latents: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """Refuses.

        Raises:
            ValueError: always; one line says what can be done.
        """
        raise ValueError(
            "Wav2Clip embeds sounds and cannot make them; "
            "to make sounds, take a codec such as clap-audioldm"
        )

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"weights": digest(self.file)}


def _padded(raws: Sequence[Tensor], length: int) -> Tensor:
    """Sounds with silence after them, with shape (B, length)."""
    waves = []
    for raw in raws:
        missing = length - len(raw)
        waves.append(F.pad(raw, (0, missing)))
    return torch.stack(waves)


def spectrograms(waves: Tensor) -> Tensor:
    """Logarithms of power, each sound's of mean 0 and standard deviation 1.

    (B, samples) -> (B, 1, 257, 1 + samples // 353).
    """
    window = torch.hann_window(FFT, dtype=waves.dtype, device=waves.device)
    spectrum = torch.stft(
        waves,
        FFT,
        HOP,
        window=window,
        pad_mode="reflect",
        return_complex=True,
    )
    power = torch.view_as_real(spectrum).square().sum(-1)
    levels = (power + OFFSET).log()
    # Exactly 0 for a silence, of which rounding would remain.
    levels = levels - levels[:, :1, :1]

    mean = levels.mean((1, 2), keepdim=True)
    deviation = levels.std((1, 2), keepdim=True)
    levels = (levels - mean) / (deviation + LEAST)
    return levels[:, None]


def build_wav2clip() -> nn.Module:
    """The network: (B, 1, 257, frames) -> (B, 512).

    Names of weights are those of the released checkpoint.

    Raises:
        ValueError: torchvision is not installed.
    """
    with importing("torchvision", needing="Wav2CLIP", install=INSTALL):
        from torchvision.models import resnet18

    encoder = resnet18()
    encoder.conv1 = nn.Conv2d(
        1,
        64,
        kernel_size=7,
        stride=2,
        padding=3,
        bias=False,
    )
    encoder.fc = nn.Identity()

    layers = nn.Sequential(
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(WIDTH, WIDTH),
    )
    transform = nn.Sequential(OrderedDict(sequential=layers))
    return nn.Sequential(OrderedDict(audio_encoder=encoder, audio_transform=transform))


def load_wav2clip(file: Path) -> nn.Module:
    """The frozen network with weights from a file, safetensors or a checkpoint of torch.

    Nothing but weights is read.

    Raises:
        ValueError: the file is damaged or holds other weights, or torchvision is not installed.
    """
    state = {}
    for name, tensor in load_weights(file).items():
        if name.startswith(PARTS) and not name.startswith(WINDOW):
            state[name] = tensor.float()

    with torch.device("meta"):  # which draws nothing
        net = build_wav2clip()

    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError:  # which names each of 130 weights
        raise ValueError(
            f"{file}: these are not weights of Wav2CLIP; {RELEASE}"
        ) from None

    return net.eval().requires_grad_(False)
