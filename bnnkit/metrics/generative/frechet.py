"""Fréchet distance between Gaussians fitted to two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.metrics.generative.rows import check_widths, double_rows

__all__ = ["FRECHET", "Moments", "frechet_distance", "moments"]

FRECHET = "frechet_distance"


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features, float64.

    Args:
        mean: `[d]`.
        covariance: `[d, d]`, unbiased (divided by n - 1).
        count: Rows that it was taken over, n.
    """

    mean: Tensor
    covariance: Tensor
    count: int


def moments(features: Tensor) -> Moments:
    """Return mean and unbiased covariance.

    Args:
        features: `[n, d]` with n of 2 or more.

    Raises:
        DataError: Another shape, fewer rows, or a value that is not finite.
    """
    x = double_rows(features, "Fréchet distance", least=2)
    mean = x.mean(0)
    x = x - mean
    return Moments(mean, x.T @ x / (len(x) - 1), len(x))


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), in squared feature units.

    The trace of the root is the sum of the singular values of S_a^(1/2) S_b^(1/2), which are the
    roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2): no root is taken of rounding errors, and
    a covariance may be singular. The distance between finite sets is biased upwards, by the more
    the fewer rows there are: compare it to a real set of the same size.

    Args:
        a: Moments of one set.
        b: Moments of the other.

    Returns:
        A number of 0 or more; 0 for equal moments.

    Raises:
        DataError: The numbers of features differ.

    References:
        Heusel et al., GANs trained by a two time-scale update rule (2017), eq. 6.
    """
    check_widths(len(a.mean), len(b.mean), "Fréchet distance")
    shift = (a.mean - b.mean).square().sum()
    spread = a.covariance.trace() + b.covariance.trace()
    # S = F F^T gives the same singular values as the symmetric root does
    common = torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum()
    return max(0.0, float(shift + spread - 2 * common))


def _factor(covariance: Tensor) -> Tensor:
    """Return F `[d, r]` with F F^T = S, without the directions of no variance."""
    values, vectors = torch.linalg.eigh(covariance)
    floor = values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    kept = values > floor
    factor: Tensor = vectors[:, kept] * values[kept].sqrt()
    return factor
