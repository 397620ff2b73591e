"""The Frechet distance of two sets of latents, each taken as a Gaussian."""

import math

import torch
from torch import Tensor


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of Gaussians with the sets' means and covariances.

        |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    (Dowson and Landau, 1982; on features of generated samples: Heusel et al., 2017). The trace of
    the root is the sum of the singular values of `R_a R_b^T` with any roots `R^T R = C`, which is
    real and exact however few the samples, and takes no matrix of more than n or F features
    squared. The estimate falls with the number of samples, so a result must name it.

    Args:
        a: Samples of one set, with shape (n, *), n at least 2.
        b: Samples of the other set, with shape (m, *), m at least 2.

    Returns:
        The squared distance, at least 0, in the unit of the samples squared.
    """
    a = a.flatten(1).double()
    b = b.flatten(1).double()
    root_a = _root_of_covariance(a)
    root_b = _root_of_covariance(b)

    means = a.mean(0) - b.mean(0)
    means = means.square().sum()
    traces = root_a.square().sum() + root_b.square().sum()
    joint = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = means + (traces - 2 * joint)
    return distance.clamp(min=0).item()


def _root_of_covariance(x: Tensor) -> Tensor:
    """A root R of the covariance C = R^T R of samples with shape (n, F).

    With shape (F, F), or (n, F) where there are fewer samples than features: these themselves.
    """
    count, features = x.shape
    if count < features:
        centred = x - x.mean(0)
        return centred / math.sqrt(count - 1)

    # Of a single feature cov is a scalar.
    covariance = x.T.cov().reshape(features, -1)
    values, vectors = torch.linalg.eigh(covariance)
    # Rounding may have left eigenvalues a little below 0.
    roots = values.clamp(min=0).sqrt()
    return vectors * roots @ vectors.T
