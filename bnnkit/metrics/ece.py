"""Expected calibration error of the most likely class (Guo et al., 2017, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "BINS",
    "ECE",
    "ECE_EQUAL_MASS",
    "binned_gap",
    "calibration_each",
    "ece",
    "equal_mass_gap",
]

ECE = "ece"
ECE_EQUAL_MASS = "ece_equal_mass"
BINS = 15


def calibration_each(log_probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence of each answer, and confidence minus correctness.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.

    Returns:
        Confidence in (0, 1] and signed gap in [-1, 1], both float64 `[n]`.
    """
    best = log_probs.double().max(1)
    confidence = best.values.exp()
    return confidence, confidence - (best.indices == labels).double()


def binned_gap(confidence: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
    """Return the calibration error of resamples: sum over bins |sum of gaps in it| / n.

    Args:
        confidence: `[n]`, in (0, 1].
        gap: Confidence minus correctness `[n]`.
        rows: Rows of each resample `[r, m]`.

    Returns:
        float64 `[r]`, for 15 bins (l, u] of equal width.
    """
    r, m = rows.shape
    edges = torch.arange(1, BINS, dtype=torch.float64, device=confidence.device) / BINS
    bins = torch.bucketize(confidence, edges)
    cells = bins[rows] + torch.arange(r, device=rows.device)[:, None] * BINS
    sums = torch.bincount(cells.flatten(), gap[rows].flatten(), minlength=r * BINS)
    return sums.view(r, BINS).abs().sum(1) / m


def equal_mass_gap(confidence: Tensor, gap: Tensor, rows: Tensor) -> Tensor:
    """Return the calibration error of resamples with bins of as many inputs each.

    Args:
        confidence: `[n]`.
        gap: Confidence minus correctness `[n]`.
        rows: Rows of each resample `[r, m]`.

    Returns:
        float64 `[r]`, for 15 bins, or `m` where that is less.
    """
    order = confidence[rows].argsort(dim=1, stable=True)
    sorted_gaps = gap[rows].gather(1, order)
    bins = torch.tensor_split(sorted_gaps, min(BINS, rows.shape[1]), dim=1)
    return torch.stack([part.sum(1).abs() for part in bins]).sum(0) / rows.shape[1]


def ece(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the calibration error as a share, with bins of equal width and of equal mass."""
    confidence, gap = calibration_each(log_probs, labels)
    n = len(gap)
    rows = torch.arange(n)[None]
    return {
        ECE: float(binned_gap(confidence, gap, rows)[0]),
        ECE_EQUAL_MASS: float(equal_mass_gap(confidence, gap, rows)[0]),
    }
