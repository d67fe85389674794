r"""The tail of importance weights: how well a proposal covers the places where it was drawn.

The largest weights :math:`w = p / q` follow a generalised Pareto distribution with shape k. Below
0.5 their variance is finite; above 0.7 a few weights rule, and a chain that meets one of them
stands still. It is judged at draws of q: of a mode that q never reaches it says nothing.

References:
    J. Zhang, M. Stephens, A new and efficient estimation method for the generalized Pareto
    distribution (2009); A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, Pareto smoothed
    importance sampling (2024), sec. 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pareto_shape"]

_LEAST_TAIL = 5
_PRIOR_COUNT, _PRIOR_SHAPE = 10, 0.5


def pareto_shape(log_weight: Tensor) -> float:
    """Return the shape k of the tail of weights.

    Args:
        log_weight: `[n]`; NaN and -inf are weights of zero.

    Returns:
        k, shrunk towards 0.5 by ten observations; minus infinity where the largest weights are
        equal, infinity where nearly all of them are zero, NaN with fewer than 25 weights, or
        where so many are ties, as of discrete variables, that they show no tail.
    """
    w = log_weight.detach().double().nan_to_num(nan=-torch.inf)
    n = len(w)
    size = math.floor(min(0.2 * n, 3 * math.sqrt(n)))
    if size < _LEAST_TAIL:
        return math.nan
    scaled = (w - w.max()).exp().sort().values
    tail, cut = scaled[-size:], scaled[-size - 1]
    if float(tail[-1]) == float(tail[0]):
        return -math.inf
    if float(cut) == 0 and float(_quartile(tail)) == 0:
        return math.inf
    excess = tail - cut
    return _shape(excess) if float(_quartile(excess)) > 0 else math.nan


def _quartile(x: Tensor) -> Tensor:
    return x[int(len(x) / 4 + 0.5) - 1]


def _shape(x: Tensor) -> float:
    """Return the shape of a generalised Pareto sample `[n]`, sorted (Zhang and Stephens 2009)."""
    n = len(x)
    m = 30 + int(math.sqrt(n))
    grid = 1 - (m / (torch.arange(1, m + 1, dtype=torch.float64) - 0.5)).sqrt()
    theta = grid / (3 * _quartile(x)) + 1 / x[-1]
    k = torch.log1p(-theta[:, None] * x).mean(1)
    profile = n * ((-theta / k).log() - k - 1)
    weight = profile.softmax(0)
    weight = torch.where(weight >= 10 * torch.finfo(torch.double).eps, weight, 0.0)
    best = (theta * weight / weight.sum()).sum()
    shape = float(torch.log1p(-best * x).mean())
    return (n * shape + _PRIOR_COUNT * _PRIOR_SHAPE) / (n + _PRIOR_COUNT)
