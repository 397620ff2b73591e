"""Features of times."""

import math

import torch
from torch import Tensor, nn

TIME_FREQUENCIES = 128  # 256 sinusoids: a cosine and a sine each; authors' code
MAX_PERIOD = 10.0  # of the sinusoids, for times in [0, 1]; authors' code


class TimeEmbedding(nn.Module):
    """Times in [0, 1], with shape (n,), to features, with shape (n, W).

    Sinusoids, `cos w_k t` and then `sin w_k t` with `w_k = MAX_PERIOD^(-k / 128)`, then an MLP.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, t: Tensor) -> Tensor:
        k = torch.arange(TIME_FREQUENCIES, dtype=t.dtype, device=t.device)
        frequencies = torch.exp(-math.log(MAX_PERIOD) * k / TIME_FREQUENCIES)
        angles = t[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
