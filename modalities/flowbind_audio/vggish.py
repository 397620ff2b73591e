"""VGGish: embeddings of sounds, 128 numbers for each 0.96 seconds.

Hershey et al., "CNN architectures for large-scale audio classification" (ICASSP 2017, arXiv
1609.09430). The constants are those of the released model. Its last layer is taken before the
activation, and the principal components that were released with it are not applied: so it is used
for the Frechet audio distance.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbind.errors import first_line
from flowbind_audio.clap import load_weights
from flowbind_audio.spectrogram import RATE

WINDOW = 400  # samples of a frame: 25 ms
HOP = 160  # samples between frames: 10 ms
FFT = 512  # samples, the next power of two
BANDS = 64  # of the mel scale
FRAMES = 96  # of a patch
WIDTH = 128  # numbers of an embedding
LOWEST, HIGHEST = 125.0, 7500.0  # Hz, ends of the mel bands
OFFSET = 0.01  # added to a band's magnitude before the logarithm
SHORTEST = (FRAMES - 1) * HOP + WINDOW  # samples of one patch
# Convolutions: place among the layers, channels before and after.
CHANNELS = (
    (0, 1, 64),
    (3, 64, 128),
    (6, 128, 256),
    (8, 256, 256),
    (11, 256, 512),
    (13, 512, 512),
)
POOLS = (2, 5, 10, 15)  # places of pooling


class Vggish(nn.Module):
    """The network: (P, 96, 64) -> (P, 128).

    Names of weights are those of the port to torch by Harri Taylor.

    Args:
        hidden: Width of the fully connected layers; 4096 in the released model.
    """

    def __init__(self, hidden: int = 4096) -> None:
        super().__init__()
        layers: dict[int, nn.Module] = {}
        for place in POOLS:
            layers[place] = nn.MaxPool2d(2)
        for place, before, after in CHANNELS:
            layers[place] = nn.Conv2d(before, after, kernel_size=3, padding=1)
            layers[place + 1] = nn.ReLU()

        in_order = [layers[place] for place in range(len(layers))]
        self.features = nn.Sequential(*in_order)

        _, _, maps = CHANNELS[-1]
        flat = maps * (FRAMES // 16) * (BANDS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, WIDTH),
        )

    def forward(self, patches: Tensor) -> Tensor:
        maps = self.features(patches[:, None])  # (P, 512, 6, 4)
        # Channels last, as where it was trained.
        maps = maps.permute(0, 2, 3, 1)
        return self.embeddings(maps.flatten(1))


def load_vggish(file: Path) -> Vggish:
    """The network with weights from a file, safetensors or a checkpoint of torch.

    Nothing but weights is read.

    Raises:
        ValueError: the file is damaged or holds other weights.
    """
    state = {}
    for name, tensor in load_weights(file).items():
        if name.startswith(("features", "embeddings")):
            state[name] = tensor.float()

    hidden = state.get("embeddings.0.weight", torch.empty(1))
    with torch.device("meta"):  # which draws nothing
        net = Vggish(hidden=len(hidden))

    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError as error:
        reason = first_line(error)
        raise ValueError(
            f"{file}: these are not weights of VGGish ({reason})"
        ) from None

    return net.eval().requires_grad_(False)


def patches(wave: Tensor) -> Tensor:
    """Log-mel patches of 0.96 s: (samples,) at 16 kHz -> (P, 96, 64), P at least 1.

    What is left over at the end is dropped; a sound too short for one patch is continued with
    silence.
    """
    missing = max(0, SHORTEST - len(wave))
    levels = log_mel(nn.functional.pad(wave, (0, missing)))
    count = len(levels) // FRAMES
    levels = levels[: count * FRAMES]
    return levels.unflatten(0, (-1, FRAMES))


def log_mel(wave: Tensor) -> Tensor:
    """Logarithms of magnitudes in mel bands: (samples,) at 16 kHz -> (frames, 64).

    No frame reaches beyond an end.
    """
    hann = torch.hann_window(WINDOW, dtype=wave.dtype, device=wave.device)
    frames = wave.unfold(0, WINDOW, HOP) * hann
    magnitude = torch.fft.rfft(frames, FFT).abs()
    magnitude = magnitude @ bands().to(wave)
    return (magnitude + OFFSET).log()


@cache
def bands() -> Tensor:
    """Weights of the frequencies in each band, with shape (257, 64).

    Triangles on the mel scale, nothing of 0 Hz.
    """
    frequencies = torch.linspace(
        0,
        RATE / 2,
        FFT // 2 + 1,
        dtype=torch.float64,
    )
    frequencies = _mel(frequencies)[:, None]

    ends = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64)
    first, last = _mel(ends).tolist()
    edges = torch.linspace(
        first,
        last,
        BANDS + 2,
        dtype=torch.float64,
    )

    low = edges[:-2]
    peak = edges[1:-1]
    high = edges[2:]
    rising = (frequencies - low) / (peak - low)
    falling = (high - frequencies) / (high - peak)
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights


def _mel(frequency: Tensor) -> Tensor:
    """O'Shaughnessy's scale (1987), as HTK has it."""
    return 1127 * torch.log1p(frequency / 700)
