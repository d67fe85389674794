"""A proposal of a family, begun where the pilot walks went."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.methods.proposals.families import GaussianMixture, Whitening, gaussian
from bnnkit.methods.proposals.flow import SplineFlow

__all__ = ["build_proposal", "empty_proposal"]

_ROUNDS = 20  # of k-means
_RIDGE = 1e-3  # of the whitened variance, added to covariances


def build_proposal(
    family: str, points: Tensor, components: int, generator: torch.Generator
) -> nn.Module:
    """Return a proposal that covers the given points.

    Args:
        family: One of `bnnkit.spec.proposal.FAMILIES`.
        points: Places of the pilot walks `[n, dim]`.
        components: Components of a mixture.
        generator: Source of the starts of components and of the weights of a flow.

    Raises:
        UsageError: A flow without zuko, or in one dimension.
    """
    whitening = _whitening(points, diagonal=family == "diagonal")
    if family in ("diagonal", "full-rank"):
        return gaussian(whitening, diagonal=family == "diagonal")
    if family == "flow":
        seed = int(torch.randint(1 << 31, (1,), generator=generator))
        return SplineFlow(whitening, seed=seed)
    means, factors, shares = _clusters(whitening.inward(points), components, generator)
    return GaussianMixture(whitening, means, factors, shares.log())


def empty_proposal(family: str, dim: int, components: int) -> nn.Module:
    """Return a proposal of the same form, for the tensors of a file."""
    whitening = Whitening(torch.zeros(dim), torch.eye(dim))
    if family in ("diagonal", "full-rank"):
        return gaussian(whitening, diagonal=family == "diagonal")
    if family == "flow":
        return SplineFlow(whitening)
    eye = torch.eye(dim).expand(components, dim, dim)
    return GaussianMixture(whitening, torch.zeros(components, dim), eye, torch.zeros(components))


def _whitening(points: Tensor, *, diagonal: bool) -> Whitening:
    """Return mean and Cholesky factor of the points; a deviation for each axis if `diagonal`."""
    x = points.double()
    variance = x.var(dim=0)
    # a coordinate in which no walk moved keeps a scale of one
    variance = torch.where(variance > 0, variance, 1.0)
    if diagonal or len(x) <= 2 * x.shape[1]:
        return Whitening(x.mean(0), variance.sqrt().diag())
    covariance = x.T.cov().view(x.shape[1], -1)
    factor = torch.linalg.cholesky(covariance + _RIDGE * variance.diag())
    return Whitening(x.mean(0), factor)


def _clusters(u: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return means, Cholesky factors and shares of k-means clusters (k-means++ starts)."""
    dim = u.shape[1]
    means = u[torch.randint(len(u), (1,), generator=generator)]
    for _ in range(count - 1):
        gap = torch.cdist(u, means).square().amin(1)
        chosen = torch.multinomial(gap + 1e-12, 1, generator=generator)
        means = torch.cat([means, u[chosen]])
    for _ in range(_ROUNDS):
        nearest = torch.cdist(u, means).argmin(1)
        hot = nn.functional.one_hot(nearest, count).float()
        sizes = hot.sum(0)
        means = torch.where(sizes[:, None] > 0, hot.T @ u / sizes.clamp_min(1)[:, None], means)
    spread = torch.eye(dim) * _RIDGE
    factors = []
    for k in range(count):
        own = u[nearest == k] - means[k]
        # a small cluster says little: lean on a ball of the clusters' mean size
        ball = torch.eye(dim) * (torch.cdist(u, means).amin(1).square().mean() / dim)
        prior = dim + 1
        covariance = (own.T @ own + prior * ball) / (len(own) + prior)
        factors.append(torch.linalg.cholesky(covariance + spread))
    return means, torch.stack(factors), (sizes + 1) / (sizes + 1).sum()
