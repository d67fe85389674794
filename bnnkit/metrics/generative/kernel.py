"""Kernel distance: unbiased squared MMD with a cubic kernel (Bińkowski et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.generative.rows import check_widths, double_rows

__all__ = ["KERNEL", "kernel_distance"]

KERNEL = "kernel_distance"


def kernel_distance(
    a: Tensor,
    b: Tensor,
    generator: torch.Generator,
    subsets: int = 100,
    subset_size: int = 1000,
) -> tuple[float, float]:
    """Return the squared maximum mean discrepancy, averaged over random subsets.

    The kernel is k(x, y) = (x.y / d + 1)^3. The estimate is unbiased: it may be negative, and its
    mean is 0 where both sets have one distribution.

    Args:
        a: Features of one set `[n, d]`.
        b: Features of the other `[m, d]`.
        generator: Source of the subsets, which are drawn without replacement.
        subsets: How many.
        subset_size: Rows of either set in each, at least 2; as many as there are where fewer.

    Returns:
        Mean and standard deviation (divided by their number) over the subsets.

    Raises:
        DataError: The widths differ, there are fewer than 2 rows, or values are not finite.

    References:
        Bińkowski et al., Demystifying MMD GANs (2018), sections 2 and 4.
    """
    a, b = (double_rows(x, "kernel distance", least=2) for x in (a, b))
    check_widths(a.shape[1], b.shape[1], "kernel distance")
    size = min(subset_size, len(a), len(b))
    if subsets < 1 or size < 2:
        raise DataError(
            "Measuring the kernel distance",
            f"{subsets} subsets of {size} rows",
            "it needs one subset of 2 rows at least",
        )
    values = torch.stack(
        [
            _squared_mmd(_rows(a, size, generator), _rows(b, size, generator))
            for _ in range(subsets)
        ]
    )
    return float(values.mean()), float(values.std(correction=0))


def _rows(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:size].to(x.device)]


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate for two sets of as many rows `[m, d]`."""
    m = len(x)
    within = _sum_off_diagonal(x) + _sum_off_diagonal(y)
    return within / (m * (m - 1)) - 2 * _sum(x, y) / m**2


def _sum(x: Tensor, y: Tensor) -> Tensor:
    """Sum the kernel over all pairs."""
    k = torch.mm(x, y.T).div_(x.shape[1]).add_(1)
    return (k * k).flatten().dot(k.flatten())


def _sum_off_diagonal(x: Tensor) -> Tensor:
    """Sum the kernel over all pairs of different rows; it is symmetric, so halves are enough."""
    half = len(x) // 2
    same = x.square().sum(1).div(x.shape[1]).add(1).pow(3).sum()
    first, second = x[:half], x[half:]
    return _sum(first, first) + _sum(second, second) + 2 * _sum(first, second) - same
