"""Which classes samples are of, and how far that is from other shares."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.generative.rows import double_rows

__all__ = ["CLASS_TV", "class_shares", "total_variation"]

CLASS_TV = "class_total_variation"


def class_shares(probabilities: Tensor) -> Tensor:
    """Return the share of samples whose most likely class is each class.

    Args:
        probabilities: `[n, k]`.

    Returns:
        float64 `[k]` that sums to one.

    Raises:
        DataError: Another shape, no rows, or a value that is not finite.
    """
    p = double_rows(probabilities, "class histogram")
    return torch.bincount(p.argmax(1), minlength=p.shape[1]).double() / len(p)


def total_variation(a: Tensor, b: Tensor) -> float:
    """Return half the sum of |a - b|: the share that would have to change its class.

    Args:
        a: Shares `[k]` that sum to one.
        b: Likewise.

    Returns:
        A number in [0, 1].

    Raises:
        DataError: The numbers of classes differ.
    """
    if a.shape != b.shape:
        raise DataError(
            "Comparing class shares",
            f"shapes {list(a.shape)} and {list(b.shape)}",
            "both must be of the same classes",
        )
    return float((a.double() - b.double()).abs().sum() / 2)
