"""Confidence intervals: Wilson for a share, Student for a mean, bootstrap for the rest, sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor

__all__ = [
    "bootstrap_interval",
    "mean_interval",
    "normal_quantile",
    "sum_interval",
    "wilson_interval",
]

_CELLS = 1 << 22


def normal_quantile(level: float) -> float:
    """Return z with P(|Z| <= z) = level for a standard normal Z."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def wilson_interval(share: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, 1927, "Probable inference").

    Args:
        share: Observed share in [0, 1].
        n: Observations, 1 or more.
        level: Confidence.

    >>> [round(v, 4) for v in wilson_interval(0.0, 10)]
    [0.0, 0.2775]
    """
    z2 = normal_quantile(level) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    # rounding must not push an end past the estimate, which is an end at 0 and at 1
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mean_interval(values: Tensor, *, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of `values` `[n]`; infinite for one value."""
    from scipy.special import stdtrit

    n = len(values)
    x = values.double()
    mean = float(x.mean())
    if n < 2:
        return -math.inf, math.inf
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(x.std()) / math.sqrt(n)
    return mean - half, mean + half


def sum_interval(*parts: tuple[float, float, float]) -> tuple[float, float]:
    """Return the interval of a sum of independent estimates.

    The squares of the distances to the ends add up (Zou and Donner 2008, "Construction of
    confidence limits about effect measures").

    Args:
        parts: `(value, low, high)` of each, at the same confidence.

    >>> [round(v, 4) for v in sum_interval((1.0, 0.7, 1.4), (2.0, 1.6, 2.3))]
    [2.5, 3.5]
    """
    value = math.fsum(value for value, _, _ in parts)
    below = math.hypot(*(value - low for value, low, _ in parts))
    above = math.hypot(*(high - value for value, _, high in parts))
    return value - below, value + above


def bootstrap_interval(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    *,
    generator: torch.Generator,
    level: float = 0.95,
    resamples: int = 500,
) -> tuple[float, float]:
    """Return a seeded bootstrap interval, centred on the estimate.

    The percentiles are shifted by the estimate minus the mean of the resamples: a statistic such
    as the calibration error is larger on every resample than on the data themselves.

    Args:
        statistic: From rows `[r, n]` of each resample to its values `[r]`.
        n: Observations.
        generator: Source of the resamples.
        level: Confidence.
        resamples: How often the data are drawn anew.
    """
    block = max(1, _CELLS // n)
    draws = []
    for start in range(0, resamples, block):
        rows = torch.randint(n, (min(block, resamples - start), n), generator=generator)
        draws.append(statistic(rows).double())
    values = torch.cat(draws)
    estimate = float(statistic(torch.arange(n)[None])[0])
    ends = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = torch.quantile(values + (estimate - values.mean()), ends).tolist()
    return low, high
