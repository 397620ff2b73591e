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
    mean_a, root_a = _gaussian(a)
    mean_b, root_b = _gaussian(b)

    means = (mean_a - mean_b).square().sum()
    traces = root_a.square().sum() + root_b.square().sum()
    joint = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = means + (traces - 2 * joint)
    return distance.clamp(min=0).item()


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, with shape (F,), and a root R of the covariance C = R^T R of samples (n, *).

    The root has shape (F, F), or (n, F) where there are fewer samples than features: these
    themselves.
    """
    x = x.flatten(1).double()
    count, features = x.shape
    mean = x.mean(0)
    if count < features:
        # In place: of pictures in full size each copy takes gigabytes.
        return mean, (x - mean).div_(math.sqrt(count - 1))

    # Of a single feature cov is a scalar.
    covariance = x.T.cov().reshape(features, -1)
    values, vectors = torch.linalg.eigh(covariance)
    # Rounding may have left eigenvalues a little below 0.
    roots = values.clamp(min=0).sqrt()
    return mean, vectors * roots @ vectors.T
