"""The Frechet distance of two sets of latents, each taken as a Gaussian."""

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of the Gaussians with the samples' means and covariances.

    `|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))` (Dowson and Landau, 1982; on features of generated samples:
    Heusel et al., 2017). The trace of the root is the sum of the singular values of `C_a^(1/2) C_b^(1/2)`, which is
    real and exact however few the samples. The estimate falls with the number of samples, so a figure must name it.

    Args:
        a: with shape (n, *), n at least 2.
        b: with shape (m, *), m at least 2.
    """
    a, b = a.flatten(1).double(), b.flatten(1).double()
    roots = _root(a.T.cov().reshape(a.shape[1], -1)), _root(b.T.cov().reshape(b.shape[1], -1))
    spread = (
        sum(root.square().sum() for root in roots)
        - 2 * torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    )
    return ((a.mean(0) - b.mean(0)).square().sum() + spread).clamp(min=0).item()


def _root(covariance: Tensor) -> Tensor:
    """The symmetric root of a covariance; rounding may have left eigenvalues a little below 0."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
