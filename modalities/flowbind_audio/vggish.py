"""VGGish: embeddings of sounds, 128 numbers for each 0.96 seconds.

Hershey et al., "CNN architectures for large-scale audio classification" (ICASSP 2017, arXiv 1609.09430). The constants
are those of the released model. Its last layer is taken before the activation, and the principal components that were
released with it are not applied: so it is used for the Frechet audio distance.
"""

from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbind.errors import first_line
from flowbind_audio.clap import load_weights
from flowbind_audio.spectrogram import RATE

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the next power of two
BANDS, FRAMES, WIDTH = 64, 96, 128  # mel bands, frames of a patch, numbers of an embedding
LOWEST, HIGHEST = 125.0, 7500.0  # Hz, ends of the mel bands
OFFSET = 0.01  # added to a band's magnitude before the logarithm
SHORTEST = (FRAMES - 1) * HOP + WINDOW  # samples of one patch
CHANNELS = ((0, 1, 64), (3, 64, 128), (6, 128, 256), (8, 256, 256), (11, 256, 512), (13, 512, 512))  # of convolutions
POOLS = (2, 5, 10, 15)


class Vggish(nn.Module):
    """The network: (P, 96, 64) -> (P, 128). Names of weights are those of the port to torch by Harri Taylor.

    Args:
        hidden: width of the fully connected layers; 4096 in the released model.
    """

    def __init__(self, hidden: int = 4096) -> None:
        super().__init__()
        layers: dict[int, nn.Module] = {place: nn.MaxPool2d(2) for place in POOLS}
        for place, before, after in CHANNELS:
            layers |= {place: nn.Conv2d(before, after, kernel_size=3, padding=1), place + 1: nn.ReLU()}
        self.features = nn.Sequential(OrderedDict((str(place), layers[place]) for place in sorted(layers)))
        flat = CHANNELS[-1][2] * (FRAMES // 16) * (BANDS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, WIDTH)
        )

    def forward(self, patches: Tensor) -> Tensor:
        seen = self.features(patches[:, None])  # (P, 512, 6, 4)
        return self.embeddings(seen.permute(0, 2, 3, 1).flatten(1))  # channels last, as where it was trained


def load_vggish(file: Path) -> Vggish:
    """The network with weights from a file, safetensors or a checkpoint of torch read as weights alone.

    Raises:
        ValueError: the file is damaged or holds other weights.
    """
    state = {
        name: tensor.float()
        for name, tensor in load_weights(file).items()
        if name.startswith(("features", "embeddings"))
    }
    hidden = state.get("embeddings.0.weight", torch.empty(1))
    with torch.device("meta"):
        net = Vggish(hidden=len(hidden))
    try:
        net.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{file}: these are not weights of VGGish ({first_line(error)})") from None
    return net.eval().requires_grad_(False)


def patches(wave: Tensor) -> Tensor:
    """Log-mel patches of 0.96 s, one after the other: (samples,) at 16 kHz -> (P, 96, 64), P at least 1.

    What is left over at the end is dropped; a sound too short for one patch is continued with silence.
    """
    levels = log_mel(nn.functional.pad(wave, (0, max(0, SHORTEST - len(wave)))))
    return levels[: len(levels) // FRAMES * FRAMES].unflatten(0, (-1, FRAMES))


def log_mel(wave: Tensor) -> Tensor:
    """Logarithms of magnitudes in mel bands: (samples,) at 16 kHz -> (frames, 64); no frame reaches beyond an end."""
    frames = wave.unfold(0, WINDOW, HOP) * torch.hann_window(WINDOW, dtype=wave.dtype, device=wave.device)
    return (torch.fft.rfft(frames, FFT).abs() @ bands().to(wave) + OFFSET).log()


@cache
def bands() -> Tensor:
    """Weights of the frequencies in each band, with shape (257, 64): triangles on the mel scale, nothing of 0 Hz."""
    frequencies = _mel(torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64))
    ends = _mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64)).tolist()
    edges = torch.linspace(*ends, BANDS + 2, dtype=torch.float64)
    rising = (frequencies[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies[:, None]) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    weights[0] = 0
    return weights


def _mel(frequency: Tensor) -> Tensor:
    """O'Shaughnessy's scale (1987), as HTK has it."""
    return 1127 * torch.log1p(frequency / 700)
