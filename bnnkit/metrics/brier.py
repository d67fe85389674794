"""Brier score (Brier, 1950): squared distance of the probabilities from the label, 0 to 2."""

from __future__ import annotations

from torch import Tensor

__all__ = ["BRIER", "brier", "brier_each"]

BRIER = "brier"


def brier_each(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return sum_k (p_k - [k = label])^2 of each input.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.

    Returns:
        float64 `[n]`, in [0, 2].
    """
    p = log_probs.double().exp()
    # sum p^2 - 2 p_label + 1, kept as a sum of squares so that it is never below zero
    p = p.scatter_add(1, labels[:, None], -p.new_ones(len(p), 1))
    return p.square().sum(1)


def brier(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the mean Brier score."""
    return {BRIER: float(brier_each(log_probs, labels).mean())}
