"""Gauss-Legendre rules, and the stretch of a truncated normal that they have to cover."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Nodes", "gauss_legendre", "truncated_normal_nodes"]


def gauss_legendre(order: int) -> tuple[Tensor, Tensor]:
    """Return nodes in [0, 1] and weights that sum to 1, each float64 `[order]`.

    They are the eigenvalues and squared first components of the Legendre polynomials' Jacobi
    matrix (Golub & Welsch 1969, "Calculation of Gauss quadrature rules").
    """
    k = torch.arange(1, order, dtype=torch.float64)
    off = k / torch.sqrt(4.0 * k * k - 1.0)
    roots, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return 0.5 * (roots + 1.0), vectors[0] ** 2


# What is left out beyond the covered stretch is exp(-_REACH) of the peak. The orders are those
# at which every moment has settled to the rounding of its dtype.
_REACH = {torch.float32: 20.0, torch.float64: 40.0}
_RULES = {
    dtype: tuple(part.to(dtype) for part in gauss_legendre(order))
    for dtype, order in {torch.float32: 32, torch.float64: 64}.items()
}


class Nodes(NamedTuple):
    """Quadrature of a truncated normal over the stretch where it has mass.

    Args:
        anchor: Its mode, the point that offsets count from, `[*, 1]`.
        offset: Node minus anchor, `[*, order]`; exact where the node itself would round.
        weight: Weights of the rule, summing to 1, `[order]`.
        span: Length of the stretch, `[*, 1]`.
        inside: Whether neither end of the interval cuts the stretch, `[*, 1]`.
    """

    anchor: Tensor
    offset: Tensor
    weight: Tensor
    span: Tensor
    inside: Tensor


def _reach(distance: Tensor, sigma: Tensor, depth: float) -> Tensor:
    """Return how far from `distance` (in sigmas) the normal's density falls by exp(-depth)."""
    outside = distance.abs()
    return sigma * (2.0 * depth) / (torch.sqrt(outside.square() + 2.0 * depth) + outside)


@torch.no_grad()
def truncated_normal_nodes(
    mu: Tensor, sigma: Tensor, low: float, high: float, *, tilt: float = 0.0
) -> Nodes:
    """Place the nodes for a normal truncated to `[low, high]`; no gradient flows through them.

    None is needed: the ends are either those of the interval, which are constants, or lie where
    nothing is left to integrate.

    Args:
        mu: Location, `[*]`, float32 or float64.
        sigma: Scale, `[*]`, positive.
        low: Lower end of the interval.
        high: Upper end of the interval.
        tilt: Largest `k` for which `exp(k x)` times the density is integrated too.
    """
    mu, sigma = mu.unsqueeze(-1), sigma.unsqueeze(-1)
    depth = _REACH[mu.dtype]
    point, weight = (part.to(mu.device) for part in _RULES[mu.dtype])
    anchor = mu.clamp(low, high)
    reach = _reach((anchor - mu) / sigma, sigma, depth)
    left = torch.maximum(low - anchor, -reach)
    right = reach
    if tilt:  # exp(k x) times a normal is the normal moved by k sigma squared
        moved = mu + tilt * sigma.square()
        mode = moved.clamp(low, high)
        right = mode - anchor + _reach((mode - moved) / sigma, sigma, depth)
    right = torch.minimum(high - anchor, right)
    inside = (left == -reach) & (right == reach)
    span = right - left
    return Nodes(anchor, left + span * point, weight, span, inside)
