"""The difference of two models on the same inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.interval import mean_interval, normal_quantile

__all__ = ["HIGH", "LOW", "SE", "VALUE", "N", "paired_difference"]

VALUE, LOW, HIGH, N, SE = "value", "low", "high", "n", "se"


def paired_difference(a: Tensor, b: Tensor, *, level: float = 0.95) -> dict[str, float]:
    """Return the mean of b - a with its interval.

    Vectors of zeros and ones get the adjusted Wald interval for paired proportions (Bonett and
    Price, 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based
    on paired data"), which has a width even where the two never disagree; others get Student's
    interval of the mean difference.

    Args:
        a: Per-input figure of the first model `[n]`.
        b: The same of the second model `[n]`, same inputs in the same order.
        level: Confidence.

    Returns:
        `value` (b minus a), `low`, `high`, `n`, and `se`, the standard error behind the interval.

    Raises:
        DataError: The vectors are empty or differ in length.
    """
    if a.shape != b.shape or a.dim() != 1 or not len(a):
        raise DataError(
            "Comparing two models",
            f"{list(a.shape)} and {list(b.shape)} figures",
            "both must have one figure for each of the same inputs",
        )
    a, b = a.double(), b.double()
    d = b - a
    value = float(d.mean())
    if _is_binary(a) and _is_binary(b):
        low, high, se = _adjusted_wald(int((d > 0).sum()), int((d < 0).sum()), len(d), level)
    else:
        low, high = mean_interval(d, level=level)
        se = float(d.std()) / math.sqrt(len(d)) if len(d) > 1 else math.inf
    return {VALUE: value, LOW: min(low, value), HIGH: max(high, value), N: len(d), SE: se}


def _adjusted_wald(up: int, down: int, n: int, level: float) -> tuple[float, float, float]:
    p, q = (up + 1) / (n + 2), (down + 1) / (n + 2)
    se = math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    half = normal_quantile(level) * se
    return max(-1.0, p - q - half), min(1.0, p - q + half), se


def _is_binary(x: Tensor) -> bool:
    return bool(torch.logical_or(x == 0, x == 1).all())
