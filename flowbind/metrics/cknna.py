"""CKNNA: how far two spaces agree on which samples are close, and how close."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 10  # k in the results of Huh et al. (2024)


def cknna(a: Tensor, b: Tensor, k: int = NEIGHBOURS) -> float:
    """Centred kernel nearest-neighbour alignment.

    From Huh et al., "The Platonic Representation Hypothesis", 2024. Of rows scaled to length 1,

        K_ij = <a_i, a_j>,  Kc_ij = K_ij - mean_l K_il
        L_ij = <b_i, b_j>,  Lc_ij = L_ij - mean_l L_il

    and over pairs i != j where j is among the k nearest of i in both spaces,

        align(K, L) = sum Kc_ij Lc_ij
        CKNNA = align(K, L) / sqrt(align(K, K) align(L, L))

    which is 1 for equal spaces, and about k / n for independent ones.

    Args:
        a: Samples in one space, with shape (n, *).
        b: The same samples in the other space, with shape (n, *); the widths may differ.
        k: Neighbours, in [1, n - 1].

    Raises:
        ValueError: k out of range.
    """
    if not 1 <= k < len(a):
        raise ValueError(
            f"CKNNA of {len(a)} samples takes 1 to {len(a) - 1} neighbours, not {k}"
        )

    K, near_a = _kernel(a, k)
    L, near_b = _kernel(b, k)
    products = (K * L)[near_a & near_b]
    scale = K[near_a].norm() * L[near_b].norm()
    if scale > 0:
        return (products.sum() / scale).item()
    return 0.0


def _kernel(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The centred kernel and the mask of each row's k nearest others, with shape (n, n) each."""
    x = F.normalize(x.flatten(1).double(), dim=1)
    kernel = x @ x.T

    others = kernel.clone()
    others.fill_diagonal_(-torch.inf)  # no sample is its own neighbour
    nearest = others.topk(k, dim=1).indices
    near = torch.zeros_like(kernel, dtype=torch.bool)
    near.scatter_(1, nearest, True)

    centred = kernel - kernel.mean(1, keepdim=True)
    return centred, near
