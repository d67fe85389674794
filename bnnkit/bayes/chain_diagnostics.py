r"""How much Markov chains tell: effective sample size and R-hat, rank-normalised and split.

Draws of a quantity are `[chains, draws]`. Each chain is split into halves (m chains of n draws);
ranks over all of them, with ties averaged, become normal scores

.. math:: z = \Phi^{-1}\left(\frac{r - 3/8}{S + 1/4}\right), \qquad S = m n.

With the mean within-chain variance :math:`W`, the variance of chain means :math:`B/n` and
:math:`\widehat{var}^+ = \frac{n-1}{n} W + \frac{B}{n}`,

.. math::
    \hat R = \sqrt{\widehat{var}^+ / W}, \qquad
    \rho_t = 1 - \frac{W - \bar\gamma_t}{\widehat{var}^+}, \qquad
    ESS = \frac{m n}{-1 + 2 \sum_t \rho_t},

:math:`\bar\gamma_t` the mean autocovariance at lag t, the sum cut by Geyer's initial positive and
monotone sequence of pairs.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, Rank-normalization, folding,
    and localization: an improved R-hat for assessing convergence of MCMC (2021), eqs. 1-14;
    C. J. Geyer, Practical Markov chain Monte Carlo (1992), sec. 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["bulk_ess", "mean_ess", "rhat"]

_LEAST_DRAWS = 4


def bulk_ess(draws: Tensor) -> Tensor:
    """Return the bulk effective sample size of each quantity.

    Args:
        draws: `[chains, draws, d]`.

    Returns:
        float64 `[d]`; NaN where a quantity never changes, is not finite, or has too few draws.

    Raises:
        ValueError: The draws are not `[chains, draws, d]`.
    """
    return _each(draws, lambda halves: _ess(_normal_scores(halves)))


def mean_ess(draws: Tensor) -> Tensor:
    """Return the effective sample size for the mean of each quantity; see `bulk_ess`."""
    return _each(draws, _ess)


def rhat(draws: Tensor) -> Tensor:
    """Return R-hat of each quantity: the larger of the bulk's and the folded (tail) one.

    Args:
        draws: `[chains, draws, d]`, two chains or more, started far apart.

    Returns:
        float64 `[d]`: 1 where chains agree, infinity where none of several moves, NaN where a
        quantity never changes, is not finite, or has too few draws or chains.

    Raises:
        ValueError: The draws are not `[chains, draws, d]`.
    """
    if draws.dim() == 3 and draws.shape[0] < 2:
        return torch.full((draws.shape[2],), math.nan, dtype=torch.float64)
    return _each(draws, _largest_rhat)


def _each(draws: Tensor, statistic: Callable[[Tensor], float]) -> Tensor:
    """Apply a statistic of split chains to each quantity."""
    if draws.dim() != 3:
        raise ValueError(f"draws of shape {list(draws.shape)}, not [chains, draws, d]")
    chains, length, size = draws.shape
    out = torch.full((size,), math.nan, dtype=torch.float64)
    if length < _LEAST_DRAWS or chains < 1:
        return out
    for i in range(size):
        x = draws[:, :, i].detach().double()
        if bool(x.isfinite().all()) and float(x.max()) > float(x.min()):
            half = length // 2
            out[i] = statistic(torch.cat([x[:, :half], x[:, -half:]]))
    return out


def _normal_scores(x: Tensor) -> Tensor:
    """Replace values by the normal quantiles of their average ranks (eq. 14)."""
    _, place, counts = torch.unique(x, return_inverse=True, return_counts=True)
    rank = counts.cumsum(0) - (counts - 1) / 2.0
    share = (rank.double() - 3 / 8) / (x.numel() + 1 / 4)
    scores: Tensor = torch.special.ndtri(share)[place]
    return scores


def _largest_rhat(halves: Tensor) -> float:
    """Return the larger of the rank-normalised R-hats of values and of folded values."""
    # numpy's median: the mean of the middle two of an even number
    ordered = halves.flatten().sort().values
    middle = ordered.numel() // 2
    median = (ordered[(ordered.numel() - 1) // 2] + ordered[middle]) / 2
    folded = (halves - median).abs()
    found = [_rhat(_normal_scores(v)) for v in (halves, folded)]
    known = [r for r in found if not math.isnan(r)]
    return max(known) if known else math.nan


def _rhat(z: Tensor) -> float:
    """Return R-hat of `[m, n]` (eqs. 1-4)."""
    n = z.shape[1]
    within = float(z.var(dim=1).mean())
    between = n * float(z.mean(dim=1).var())
    if within == 0:
        return math.inf if between > 0 else math.nan
    return math.sqrt((between / within + n - 1) / n)


def _autocorrelation(x: Tensor) -> Tensor:
    """Return rho_t `[n]` of chains `[m, n]`, the between-chain variance included (eq. 10)."""
    m, n = x.shape
    size = 1 << (2 * n - 1).bit_length()  # zero-padded: no wrap-around
    spectrum = torch.fft.rfft(x - x.mean(dim=1, keepdim=True), n=size)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=size)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(dim=1).var() if m > 1 else 0.0)
    rho: Tensor = 1 - (within - covariance) / total
    rho[0] = 1.0
    return rho


def _ess(x: Tensor) -> float:
    """Return the effective sample size of `[m, n]` (eqs. 10-13)."""
    m, n = x.shape
    if n < 3:
        return math.nan
    rho = _autocorrelation(x)
    pairs = rho[: 2 * (n // 2)].view(-1, 2).sum(1)
    # Geyer: the pairs before the first that is not positive, made non-increasing
    most = max((n - 3) // 2, 0)
    ends = (pairs[: most + 1] <= 0).nonzero()
    last = int(ends[0]) if len(ends) else most
    kept = pairs[:last].cummin(0).values.sum() if last else pairs.new_zeros(())
    # half of the next pair lowers the variance of the estimate for antithetic chains
    even = float(rho[2 * last])
    tail = even if float(pairs[last]) >= 0 else max(even, 0.0)
    size = m * n
    tau = max(-1.0 + 2.0 * float(kept) + tail, 1 / math.log10(size))
    return size / tau
