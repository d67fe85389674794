"""Reliability diagram: accuracy against confidence, bin by bin (Guo et al., 2017, fig. 1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bnnkit.metrics.ece import BINS, calibration_each

__all__ = ["Reliability", "reliability"]


class Reliability(NamedTuple):
    """The bins of a reliability diagram, from low confidence to high.

    Args:
        confidence: Mean confidence, nan in an empty bin, float64 `[bins]`.
        accuracy: Share of right answers, nan in an empty bin, float64 `[bins]`.
        inputs: How many, int64 `[bins]`.
    """

    confidence: Tensor
    accuracy: Tensor
    inputs: Tensor


def reliability(log_probs: Tensor, labels: Tensor, *, bins: int = BINS) -> Reliability:
    """Return mean confidence and accuracy in bins (l, u] of equal width.

    With the default bins, sum_b inputs_b / n |accuracy_b - confidence_b| is `ece`.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.
        bins: How many.
    """
    confidence, gap = calibration_each(log_probs, labels)
    edges = torch.arange(1, bins, dtype=torch.float64, device=confidence.device) / bins
    cells = torch.bucketize(confidence, edges)
    # the gap is confidence minus 0 or 1: rounding only undoes what the subtraction lost
    right = (confidence - gap).round()
    count = torch.bincount(cells, minlength=bins)
    sums = [torch.bincount(cells, values, minlength=bins) for values in (confidence, right)]
    return Reliability(sums[0] / count, sums[1] / count, count)
