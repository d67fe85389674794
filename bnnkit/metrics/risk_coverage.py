"""Error among the most confident answers (El-Yaniv and Wiener, 2010; Geifman et al., 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.metrics.error import error_each

__all__ = ["AURC", "aurc", "risk_coverage", "thin"]

AURC = "aurc"


def risk_coverage(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the error when only the most confident 1, 2, ... n answers are given.

    Answers of equal confidence share their errors equally: the risk is the expected one over
    every order of theirs, so that the order of the inputs does not matter.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.

    Returns:
        Coverage in (0, 1], ascending, and risk in [0, 1], both float64 `[n]`.
    """
    confidence, order = log_probs.double().max(1).values.sort(descending=True)
    wrong = error_each(log_probs, labels)[order]
    tie = (confidence != confidence.roll(1)).cumsum(0)  # one number for each run of equal ones
    shared = (torch.bincount(tie, wrong) / torch.bincount(tie))[tie]
    count = torch.arange(1, len(shared) + 1, dtype=torch.float64, device=shared.device)
    return count / len(shared), shared.cumsum(0) / count


def aurc(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the area under the curve: the risk averaged over every coverage."""
    return {AURC: float(risk_coverage(log_probs, labels)[1].mean())}


def thin(x: Tensor, y: Tensor, *, points: int = 200) -> tuple[Tensor, Tensor]:
    """Return evenly spaced points of a curve with both its ends, for a plot.

    Args:
        x: `[n]`.
        y: `[n]`.
        points: How many to keep, 2 or more; a shorter curve stays whole.

    >>> thin(torch.arange(9), torch.arange(9) * 10, points=3)
    (tensor([0, 4, 8]), tensor([ 0, 40, 80]))
    """
    if len(x) <= points:
        return x, y
    rows = torch.linspace(0, len(x) - 1, points, dtype=torch.float64, device=x.device)
    rows = rows.round().long()
    return x[rows], y[rows]
