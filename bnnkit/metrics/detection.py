"""Out-of-domain detection by a score that is larger out of domain."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.interval import normal_quantile
from bnnkit.metrics.paired import HIGH, LOW, SE, VALUE, N

__all__ = ["AUPR", "AUROC", "FPR95", "auroc_interval", "detection", "paired_auroc_difference"]

AUROC = "auroc"
AUPR = "aupr"
FPR95 = "fpr95"


def detection(inside: Tensor, outside: Tensor) -> dict[str, float]:
    """Return how well a threshold on the score parts the two domains.

    - `auroc`: P(score outside > score inside), a tie counting one half.
    - `aupr`: average precision with "outside" as the positive class, sum over the distinct
      thresholds t of (recall gained at t) x (precision of "score >= t"), not interpolated.
    - `fpr95`: share of the inside inputs with score >= t, where t is the largest threshold for
      which at least 95 % of the outside inputs have score >= t.

    Args:
        inside: Scores of inputs from the domain of the training data `[n]`.
        outside: Scores of inputs from elsewhere `[m]`.

    Returns:
        The three, as shares in [0, 1].

    Raises:
        DataError: There are no scores of one kind, or one is not a number.
    """
    x, y = _scores(inside, outside)
    kept = x.numel() - torch.searchsorted(x, y)  # inside inputs at or above each outside score
    found = y.numel() - torch.searchsorted(y, y)
    # in whole numbers: 0.95 m may round past the count that it stands for
    threshold = y.numel() - -(-95 * y.numel() // 100)
    return {
        AUROC: float(_placement(x, y).mean()),
        AUPR: float((found / (found + kept).double()).mean()),
        FPR95: float(kept[threshold]) / x.numel(),
    }


def auroc_interval(inside: Tensor, outside: Tensor, *, level: float = 0.95) -> dict[str, float]:
    """Return the AUROC with its interval by the variance of DeLong et al. (1988).

    "Comparing the areas under two or more correlated receiver operating characteristic curves: a
    nonparametric approach", by placements in O(n log n) (Sun and Xu, 2014). Where no score of one
    domain lies among those of the other the variance is zero, and the interval a point.

    Args:
        inside: Scores in the domain `[n]`.
        outside: Scores out of it `[m]`, larger there.
        level: Confidence.

    Returns:
        `value`, `low`, `high`, `n` (inputs of both kinds), and `se`, the standard error.

    Raises:
        DataError: There are no scores of one kind, or one is not a number.
    """
    return _interval(*_placements(inside, outside), level=level, least=0.0)


def paired_auroc_difference(
    inside_a: Tensor,
    outside_a: Tensor,
    inside_b: Tensor,
    outside_b: Tensor,
    *,
    level: float = 0.95,
) -> dict[str, float]:
    """Return AUROC of b minus AUROC of a on the same inputs, with DeLong's interval.

    The variance of the difference of correlated curves (DeLong et al., 1988, eq. 6) is that of
    the differences of the placements of each input.

    Args:
        inside_a: Scores of the first model in the domain `[n]`.
        outside_a: The same out of it `[m]`.
        inside_b: Scores of the second model, same inputs in the same order `[n]`.
        outside_b: The same out of the domain `[m]`.
        level: Confidence.

    Returns:
        `value` (b minus a), `low`, `high`, `n` (inputs of both kinds), and `se`.

    Raises:
        DataError: The models have not scored as many inputs, or a score is not a number.
    """
    for a, b, kind in ((inside_a, inside_b, "inside"), (outside_a, outside_b, "outside")):
        if a.shape != b.shape:
            raise DataError(
                "Comparing the out-of-domain detection of two models",
                f"{list(a.shape)} and {list(b.shape)} scores {kind} the domain",
                "both models must have scored the same inputs",
            )
    first, second = _placements(inside_a, outside_a), _placements(inside_b, outside_b)
    return _interval(second[0] - first[0], second[1] - first[1], level=level, least=-1.0)


def _interval(inside: Tensor, outside: Tensor, *, level: float, least: float) -> dict[str, float]:
    """Return the mean of the placements and DeLong's interval, cut to `[least, 1]`."""
    n, m = len(inside), len(outside)
    value = float(outside.mean())
    se = math.inf
    if min(n, m) > 1:
        se = math.sqrt(float(inside.var()) / n + float(outside.var()) / m)
    half = normal_quantile(level) * se
    low, high = max(least, value - half), min(1.0, value + half)
    return {VALUE: value, LOW: low, HIGH: high, N: n + m, SE: se}


def _placements(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Return, in the order given, the share of the other kind that each score is right about."""
    x, y = _scores(inside, outside)
    return 1 - _placement(y, inside.double()), _placement(x, outside.double())


def _placement(ordered: Tensor, values: Tensor) -> Tensor:
    """Return the share of `ordered` below each value, ties counting one half."""
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to).double() / (2 * ordered.numel())


def _scores(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """Return both kinds in ascending order, float64, or refuse them."""
    for scores, kind in ((inside, "inside"), (outside, "outside")):
        asked = "Measuring out-of-domain detection"
        if scores.dim() != 1 or not len(scores):
            found = f"scores of shape {list(scores.shape)} {kind} the domain"
            raise DataError(asked, found, "one score an input is needed, of one input or more")
        if bad := int(scores.isnan().sum()):
            found = f"not a number for {bad} of {len(scores)} inputs {kind} the domain"
            raise DataError(asked, found, "such a score has no order")
    return inside.double().sort().values, outside.double().sort().values
