"""Classification error: the share of inputs whose most likely class is not the label."""

from __future__ import annotations

from torch import Tensor

__all__ = ["ERROR", "error", "error_each"]

ERROR = "error"


def error_each(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return 1 for each wrong answer and 0 for each right one.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.

    Returns:
        float64 `[n]`.
    """
    return (log_probs.argmax(1) != labels).double()


def error(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the error as a share in [0, 1]."""
    return {ERROR: float(error_each(log_probs, labels).mean())}
