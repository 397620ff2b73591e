"""Retrieval: is a generated latent nearest to the real one of its own sample?"""

import torch
import torch.nn.functional as F
from torch import Tensor


def recall_at_1(made: Tensor, real: Tensor) -> float:
    """Share of rows i whose cosine similarity `<made_i, real_j> / (|made_i| |real_j|)` is greatest at j = i.

    Args:
        made: standardised latents, with shape (n, *).
        real: standardised latents of the same samples, with shape (n, *).
    """
    similarity = (
        F.normalize(made.flatten(1).double(), dim=1)
        @ F.normalize(real.flatten(1).double(), dim=1).T
    )
    return (
        (similarity.argmax(1) == torch.arange(len(made), device=made.device)).double().mean().item()
    )
