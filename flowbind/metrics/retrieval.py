"""Retrieval: is a generated latent nearest to the real one of its own sample?"""

import torch
import torch.nn.functional as F
from torch import Tensor


def recall_at_1(generated: Tensor, real: Tensor) -> float:
    """Share of rows i, in [0, 1], whose generated latent is nearest to the real one at j = i.

    Nearest is where the cosine `<x_i, real_j> / (|x_i| |real_j|)` is greatest, with generated x.

    Args:
        generated: Standardised latents, with shape (n, *).
        real: Standardised latents of the same samples, with shape (n, *).
    """
    x = F.normalize(generated.flatten(1).double(), dim=1)
    y = F.normalize(real.flatten(1).double(), dim=1)
    similarity = x @ y.T
    nearest = similarity.argmax(1)
    is_own = nearest == torch.arange(len(x), device=x.device)
    return is_own.double().mean().item()
