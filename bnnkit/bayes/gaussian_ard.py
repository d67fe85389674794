r"""Gaussian posteriors of single weights and their priors: log-uniform, ARD, ARD by groups.

A weight has the posterior :math:`q(w) = N(\mu, \sigma^2)`, in the additive parametrisation:
:math:`\mu` and :math:`\log\sigma` are free.

========  ===================  =================================================================
symbol    name in code         equation
========  ===================  =================================================================
α         `log_alpha`          σ² / μ², noise over signal; a weight with log α > 3 is closed
α         `log_alpha`          d / Q, of a group of d weights
KL        `sparse_vd_kl`       k₁ S(-k₂ - k₃ log α) + ½ log(1 + 1/α), S the logistic function;
                               Molchanov et al. 2017, eq. 14, a fit that is good to .009 nats
KL        `ard_kl`             ½ log(1 + μ²/σ²) at the best precision of N(0, 1/α*),
                               α* = 1 / (μ² + σ²); Kharitonov et al. 2018
S         `second_moment`      E[w²] = μ² + σ²
τ, γ      `log_tau`,           w_ij ~ N(0, 1/(τ_i γ_j)), a precision for each row and column
          `log_gamma`
KL        `group_kl`           ½ Σ (τ_i γ_j S_ij - log τ_i γ_j - 1) - ½ log det Σ_post
========  ===================  =================================================================

The precisions are not trained by gradients: given γ the best τ is :math:`1 / \mathrm{mean}_j
\gamma_j S_{ij}`, and the other way round. `group_kl` is jointly convex in log τ and log γ, so that
taking turns (`fit_precisions`) ends in its only minimum, needs no rate, and follows the posterior
from step to step. At the minimum the gradient in μ and σ is the one with τ and γ held fixed.

The relevance of a group of d weights is what the posterior loses of its log-density when the group
is set to zero and all else stays at its mean: Q/2 nats with :math:`Q = \mu^T \Sigma^{-1} \mu`, in
which μ is zero outside the group. For a single weight Q is 1/α, so for a group α is d/Q.
With the prior at its best, closing independent weights of equal α changes the evidence bound by
½ d (log(1 + 1/α) - 1/α), less than .0007 nats a weight for log α > 3. Q does not change when
inputs or outputs are rescaled, or mixed by any invertible matrix. The other obvious score,
Σσ² / Σμ², is drowned by members that nobody uses: they take the prior's variance, so one
well-determined weight among a hundred idle ones would count as noise.

References:
    D. Molchanov, A. Ashukha, D. Vetrov, Variational dropout sparsifies deep neural networks
    (2017), eq. 14; V. Kharitonov, D. Molchanov, D. Vetrov, Variational dropout via empirical
    Bayes (2018); M. Tipping, Sparse Bayesian learning and the relevance vector machine (2001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "ard_kl",
    "ard_precision",
    "fit_precisions",
    "group_kl",
    "log_alpha",
    "sparse_vd_kl",
]

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695
_TINY = 1e-30  # a normal number of float32, far below any square that matters


def log_alpha(form: Tensor, size: int = 1) -> Tensor:
    """Return log(d/Q), noise over signal; finite where there is no signal.

    Args:
        form: Q, μ²/σ² of single weights or the form of a group `[*]`.
        size: Weights in a group, d.
    """
    return math.log(size) - form.clamp(min=_TINY).log()


def sparse_vd_kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return KL(q(w) || log-uniform) of each weight, in nats, zero where noise is all there is.

    Args:
        mu: Means `[*]`.
        log_sigma: Logarithm of the deviations `[*]`, -20 or more.

    Returns:
        `[*]`, its gradient finite for a mean of zero.

    References:
        Molchanov et al. 2017, eq. 14, with the constant C = -k₁.

    >>> sparse_vd_kl(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0]))
    tensor([0.0000, 0.4312])
    """
    ratio = (mu * torch.exp(-log_sigma)).square()  # 1/α
    log_ratio = ratio.clamp(min=_TINY).log()  # whose gradient at zero is zero, and not NaN
    return _K1 * torch.sigmoid(_K3 * log_ratio - _K2) + 0.5 * torch.log1p(ratio)


def ard_kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return KL(q(w) || N(0, 1/α*)) of each weight at its best precision, in nats.

    Args:
        mu: Means `[*]`.
        log_sigma: Logarithm of the deviations `[*]`, -20 or more.

    Returns:
        `[*]`, never negative.

    References:
        Kharitonov et al. 2018: ½ log(1 + μ²/σ²).

    >>> ard_kl(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
    tensor([0.0000, 0.3466])
    """
    return 0.5 * torch.log1p((mu * torch.exp(-log_sigma)).square())


def ard_precision(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return α* = 1/(μ² + σ²), the prior precision of each weight that fits it best, `[*]`."""
    return 1.0 / (mu.square() + torch.exp(2.0 * log_sigma))


def group_kl(second_moment: Tensor, log_det: Tensor, log_tau: Tensor, log_gamma: Tensor) -> Tensor:
    """Return KL(q(W) || Π N(w_ij | 0, 1/(τ_i γ_j))) of all weights together, in nats.

    Args:
        second_moment: E[w²] of each weight `[*]`.
        log_det: Log-determinant of the posterior's covariance `[]`; a lower bound of it gives an
            upper bound of the divergence.
        log_tau: Log precisions that broadcast to the weights: of size one along every axis that
            shares them.
        log_gamma: Further log precisions, added to `log_tau`.

    Returns:
        `[]`.
    """
    log_precision = (log_tau + log_gamma).expand_as(second_moment)
    return 0.5 * ((log_precision.exp() * second_moment - log_precision - 1.0).sum() - log_det)


@torch.no_grad()
def fit_precisions(
    second_moment: Tensor,
    log_tau: Tensor,
    log_gamma: Tensor,
    *,
    rows: bool,
    columns: bool,
    sweeps: int = 1,
) -> tuple[Tensor, Tensor]:
    """Return log precisions that lower `group_kl`, in closed form, taking turns.

    One sweep is exact where only one of them is fitted.

    Args:
        second_moment: E[w²] of each weight `[*]`, positive.
        log_tau: Where log τ starts, broadcastable to the weights.
        log_gamma: Where log γ starts, likewise.
        rows: Whether τ is fitted.
        columns: Whether γ is fitted.
        sweeps: How often both are set.

    References:
        The maximum of the evidence bound in τ, then γ (Kharitonov et al. 2018, for one weight).
    """
    for _ in range(sweeps):
        if rows:
            log_tau = _best(second_moment * log_gamma.exp(), log_tau.shape)
        if columns:
            log_gamma = _best(second_moment * log_tau.exp(), log_gamma.shape)
    return log_tau, log_gamma


def _best(weighted: Tensor, shape: Sequence[int]) -> Tensor:
    """Return -log of the mean over the axes that share a precision."""
    shared = [axis for axis, size in enumerate(shape) if size == 1]
    return -weighted.mean(shared, keepdim=True).log() if shared else -weighted.log()
