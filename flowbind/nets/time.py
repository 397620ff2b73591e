r"""The features of a time are 128 cosines, then 128 sines, as in the authors' code:

$$
\phi(t) = (\cos \omega_k t, \sin \omega_k t)_{k = 0}^{127}, \qquad \omega_k = 10^{-k / 128} .
$$
"""

import math

import torch
from torch import Tensor, nn

TIME_FREQUENCIES = 128  # 256 sinusoids: a cosine and a sine each; authors' code
MAX_PERIOD = 10.0  # of the sinusoids, for times in [0, 1]; authors' code


class TimeEmbedding(nn.Module):
    """Times in [0, 1], with shape (n,), to features, with shape (n, W).

    The sinusoids, then an MLP of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, width),
            nn.SiLU(),
            nn.Linear(width, width),
        )

    def forward(self, t: Tensor) -> Tensor:
        k = torch.arange(TIME_FREQUENCIES, dtype=t.dtype, device=t.device)
        exponent = -math.log(MAX_PERIOD) * k / TIME_FREQUENCIES
        omega = torch.exp(exponent)
        angles = t[:, None] * omega
        phi = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(phi)
