"""How Gaussian, and how independent, batch statistics are: the fit of stochastic batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ks_distance", "layer_correlation", "lilliefors_null", "rejected_share"]

_CELLS = 1 << 22  # numbers held at once in a block of work: 32 MiB


def ks_distance(draws: Tensor) -> Tensor:
    """Return how far each column is from the Gaussian with its own mean and deviation.

    sup_x |F_n(x) - Phi((x - mean) / s)| with s^2 over n - 1 (Lilliefors, 1967, "On the
    Kolmogorov-Smirnov test for normality with mean and variance unknown").

    Args:
        draws: `[n, d]`, any float type; computed in float64.

    Returns:
        float64 `[d]`, in (0, 1]; nan for a constant column.
    """
    n = len(draws)
    rank = torch.arange(n, dtype=torch.float64, device=draws.device)[:, None]
    distances = []
    step = max(1, _CELLS // n)
    for start in range(0, draws.shape[1], step):
        x = draws[:, start : start + step].double().sort(0).values
        z = (x - x.mean(0)) / x.std(0)
        f = torch.special.ndtr(z)
        distance = torch.maximum((rank + 1) / n - f, f - rank / n).amax(0)
        distances.append(distance.masked_fill(x[0] == x[-1], torch.nan))
    return torch.cat(distances)


def lilliefors_null(n: int, *, generator: torch.Generator, simulations: int = 2000) -> Tensor:
    """Return `ks_distance` of simulated Gaussian columns of length `n`, in ascending order.

    Mean and deviation are fitted to the same draws, which makes the distance smaller than
    Kolmogorov's table has it; its distribution depends on n alone.

    Args:
        n: Draws in a column, 2 or more.
        generator: Source of the draws.
        simulations: How many columns.

    Returns:
        float64 `[simulations]`.
    """
    distances = []
    for start in range(0, simulations, block := max(1, _CELLS // n)):
        columns = min(block, simulations - start)
        draws = torch.randn(
            n, columns, generator=generator, dtype=torch.float64, device=generator.device
        )
        distances.append(ks_distance(draws))
    return torch.cat(distances).sort().values


def rejected_share(distances: Tensor, null: Tensor, *, level: float = 0.05) -> float:
    """Return the share of columns whose Gaussian fit is rejected; `level` is expected by chance.

    The Monte Carlo test rejects where (1 + #{null >= distance}) / (1 + #null) <= level (Davison
    and Hinkley, 1997, eq. 4.11).

    Args:
        distances: Of `ks_distance` `[d]`; those that are nan do not count.
        null: Of `lilliefors_null` for the same number of draws, ascending.
        level: Level of each test.

    Returns:
        A share in [0, 1]; nan where no column counts.
    """
    counted = distances[~distances.isnan()].double()
    beyond = len(null) - torch.searchsorted(null, counted)
    return float((1 + beyond <= level * (1 + len(null))).double().mean())


def layer_correlation(draws: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the root-mean-square correlation between the statistics of every two layers.

    The mean of r^2 over all pairs of a statistic of layer i and one of layer j; on the diagonal,
    over pairs of different statistics. Independent ones have E r^2 = 1 / (n - 1) by chance: this
    floor f is taken off as (r^2 - f) / (1 - f), the adjusted coefficient of determination
    (Ezekiel, 1930), which leaves 1 at 1; what falls below zero is set to zero.

    Args:
        draws: One row a batch `[n, d]`, the statistics of a layer side by side, n >= 3.
        sizes: Statistics of each layer, in that order; they sum to d.

    Returns:
        float64 `[L, L]`, symmetric, in [0, 1]. Constant statistics are left out; nan where no pair
        is left, as on the diagonal of a layer with a single one.
    """
    n = len(draws)
    z, varies = _standardised(draws)
    layers = z.split_with_sizes(list(sizes), dim=1)
    parts = varies.split_with_sizes(list(sizes))
    counts = torch.stack([part.sum() for part in parts]).double()
    # sum of r^2 = |Zi' Zj|^2 = <Zi Zi', Zj Zj'>: n x n matrices, however many the statistics
    total = z.new_zeros(len(layers), len(layers))
    step = max(1, _CELLS // (n * max(1, len(layers))))
    for start in range(0, n, step):
        rows = [(layer[start : start + step] @ layer.T).flatten() for layer in layers]
        grams = torch.stack(rows)
        total += grams @ grams.T
    own = counts.diag()
    floor = 1 / (n - 1)
    square = (total - own) / (counts.outer(counts) - own)
    return ((square - floor) / (1 - floor)).clamp(0.0, 1.0).sqrt()


def _standardised(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return columns of mean 0 and length 1, constant ones as zeros, and which ones vary."""
    x = draws.double()
    varies = x.amax(0) > x.amin(0)
    x = x - x.mean(0)
    length = torch.linalg.vector_norm(x, dim=0)
    return torch.where(varies, x / length, 0.0), varies
