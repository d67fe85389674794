r"""Natural-gradient steps of Gaussian posteriors, with a Gauss-Newton control variate.

The bound is :math:`E_q[f(z)] + H(q)`, f = log p(x, z), at draws z = m + L ε. With a fixed
precision P (see `curvature`) and :math:`g = \nabla f(z)`, the residual

.. math:: r = g + P (z - m)

has the same mean as g; and :math:`E[g \epsilon^T] = E[r \epsilon^T] - P L` exactly. What is left
to chance is only what the quadratic model does not explain. One step of rate ρ is

=================  ================================================================
all                m + ρ P⁻¹ E[r], Newton's step
diagonal           log σ + ρ/2 (1 + E[σ ε ∘ r] - σ² ∘ diag P)
full               L ← L h(ρ M), M = Lᵀ (E[r εᵀ] - P L) + I
matrix normal      A ← A h(ρ M_A / C), M_A = Aᵀ (E[R B Xᵀ] - Q_A A) + C I; B likewise
=================  ================================================================

where h(M) is lower triangular, with e^{M_ii / 2} on the diagonal and M_ij below: the steepest
ascent in the metric KL(q_new || q). Of a full covariance ρ is smaller by S / (S + d), and a step
of the spread that is too long is shortened. R is r as a matrix, and
:math:`Q_A = \sum_{jl} P_{ij,kl} (BB^T)_{jl}`.

References:
    Khan and Rue, The Bayesian learning rule (2023); Lin, Nielsen, Khan and Schmidt, Tractable
    structured natural-gradient descent using local parameterizations (2021), secs. 3-4.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Diagonal, FullRank, MatrixNormal, Posterior

__all__ = ["fit_spread", "natural_step"]

_MOST = 1.0
"""Longest step of the spread: root mean square over latents, of log sigma or of rows of h."""
_ROUNDS = 4


@singledispatch
def natural_step(
    q: Posterior,
    noise: Tensor,
    gradient: Tensor,
    precision: Tensor,
    covariance: Tensor,
    rate: float | Tensor,
) -> Posterior:
    """Return the posterior after one step.

    Args:
        q: The posterior at hand.
        noise: ε `[s, n, d]`.
        gradient: Of log p(x, z) by z, at the draws that `q.sample(noise)` gives `[s, n, d]`.
        precision: P `[n, d, d]`.
        covariance: P⁻¹ `[n, d, d]`.
        rate: ρ.

    Raises:
        TypeError: The family is not Gaussian.
    """
    raise TypeError(f"no natural gradient for {type(q).__name__}")


@singledispatch
def fit_spread(q: Posterior, precision: Tensor) -> Posterior:
    """Return the posterior with the spread that is best if log p(x, z) is quadratic.

    Args:
        q: The posterior at hand; its mean is kept.
        precision: P `[n, d, d]`.

    Raises:
        TypeError: The family is not Gaussian.
    """
    raise TypeError(f"no natural gradient for {type(q).__name__}")


def _newton(mean: Tensor, residual: Tensor, covariance: Tensor, rate: float | Tensor) -> Tensor:
    """Return m + ρ P⁻¹ E[r], at most 2 sqrt(d) deviations away."""
    slope = residual.mean(0)
    step = (covariance @ slope.unsqueeze(-1)).squeeze(-1)
    # stepᵀ P step; rounding may take what is next to nothing below zero
    length = (step * slope).sum(-1).clamp_min(0).sqrt() / (2 * mean.shape[-1] ** 0.5)
    moved: Tensor = mean + rate * step / length.clamp_min(1.0).unsqueeze(-1)
    return moved


def _local(m: Tensor, rate: float | Tensor) -> Tensor:
    """Return h(ρ M); a long step keeps its direction."""
    step = rate * m
    length = step.square().sum((-2, -1), keepdim=True).sqrt() / (_MOST * m.shape[-1] ** 0.5)
    bounded: Tensor = step / length.clamp_min(1.0)
    diagonal = bounded.diagonal(dim1=-2, dim2=-1)
    local: Tensor = bounded.tril(-1) + torch.diag_embed((diagonal / 2).exp())
    return local


@natural_step.register
def _(
    q: Diagonal,
    noise: Tensor,
    gradient: Tensor,
    precision: Tensor,
    covariance: Tensor,
    rate: float | Tensor,
) -> Diagonal:
    moved = q.log_sigma.exp() * noise
    residual = gradient + torch.einsum("nij,snj->sni", precision, moved)
    explained = precision.diagonal(dim1=-2, dim2=-1) * (2 * q.log_sigma).exp()
    slope = 1 + (residual * moved).mean(0) - explained
    log_sigma = q.log_sigma + (0.5 * rate * slope).clamp(-_MOST, _MOST)
    return Diagonal(_newton(q.mean, residual, covariance, rate), log_sigma)


@natural_step.register
def _(
    q: FullRank,
    noise: Tensor,
    gradient: Tensor,
    precision: Tensor,
    covariance: Tensor,
    rate: float | Tensor,
) -> FullRank:
    factor = q.factor()
    moved = torch.einsum("nij,snj->sni", factor, noise)
    residual = gradient + torch.einsum("nij,snj->sni", precision, moved)
    outer = torch.einsum("sni,snj->nij", residual, noise) / len(noise)
    identity = torch.eye(noise.shape[-1]).to(noise)
    m = factor.mT @ (outer - precision @ factor) + identity
    # S draws say little about d (d + 1) / 2 numbers: the fewer they are, the slower.
    slow = rate * noise.shape[0] / (noise.shape[0] + noise.shape[-1])
    return FullRank.from_factor(
        _newton(q.mean, residual, covariance, rate), factor @ _local(m, slow)
    )


@natural_step.register
def _(
    q: MatrixNormal,
    noise: Tensor,
    gradient: Tensor,
    precision: Tensor,
    covariance: Tensor,
    rate: float | Tensor,
) -> MatrixNormal:
    a, b = q.factors()
    rows, columns = a.shape[-1], b.shape[-1]
    x = torch.unflatten(noise, -1, (rows, columns))
    moved = (a @ x @ b.mT).flatten(-2)
    residual = gradient + torch.einsum("nij,snj->sni", precision, moved)
    r = torch.unflatten(residual, -1, (rows, columns))
    q_a, q_b = _contract(precision, a, b)
    m_a = a.mT @ ((r @ b @ x.mT).mean(0) - q_a @ a) + columns * torch.eye(rows).to(a)
    m_b = b.mT @ ((r.mT @ a @ x).mean(0) - q_b @ b) + rows * torch.eye(columns).to(b)
    mean = _newton(q.mean, residual, covariance, rate)
    # A common scale is a direction of both factors: each takes half of that step.
    half = 0.5 * rate
    return _from_factors(mean, a @ _local(m_a / columns, half), b @ _local(m_b / rows, half))


def _contract(precision: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q_A `[n, R, R]` and Q_B `[n, C, C]`."""
    rows, columns = a.shape[-1], b.shape[-1]
    p = torch.unflatten(torch.unflatten(precision, -1, (rows, columns)), -3, (rows, columns))
    q_a = torch.einsum("nijkl,njl->nik", p, b @ b.mT)
    q_b = torch.einsum("nijkl,nik->njl", p, a @ a.mT)
    return q_a, q_b


def _from_factors(mean: Tensor, a: Tensor, b: Tensor) -> MatrixNormal:
    rows, columns = FullRank.from_factor(mean, a), FullRank.from_factor(mean, b)
    return MatrixNormal(mean, rows.lower, rows.log_diagonal, columns.lower, columns.log_diagonal)


def _inverse_factor(precision: Tensor) -> Tensor:
    """Return the lower-triangular L with LLᵀ = P⁻¹."""
    factor, _ = torch.linalg.cholesky_ex(precision.flip(-2, -1))
    identity = torch.eye(precision.shape[-1]).to(precision).expand_as(precision)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse.flip(-2, -1).mT


@fit_spread.register
def _(q: Diagonal, precision: Tensor) -> Diagonal:
    return Diagonal(q.mean, -0.5 * precision.diagonal(dim1=-2, dim2=-1).log())


@fit_spread.register
def _(q: FullRank, precision: Tensor) -> FullRank:
    return FullRank.from_factor(q.mean, _inverse_factor(precision))


@fit_spread.register
def _(q: MatrixNormal, precision: Tensor) -> MatrixNormal:
    """Fit A and B by turns: each has a closed form given the other."""
    a, b = q.factors()
    rows, columns = a.shape[-1], b.shape[-1]
    for _round in range(_ROUNDS):
        a = _inverse_factor(_contract(precision, a, b)[0] / columns)
        b = _inverse_factor(_contract(precision, a, b)[1] / rows)
    return _from_factors(q.mean, a, b)
