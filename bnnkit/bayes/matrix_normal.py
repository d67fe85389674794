r"""The matrix-normal posterior of a layer's weights, alone or with a diagonal added.

The weights that map n inputs to m outputs are the matrix W [n, m], with the posterior

.. math:: q(W) = MN(M, A A^T, B B^T), \qquad W = M + A X B^T, \quad X_{ij} \sim N(0, 1),

so that :math:`\mathrm{Cov}(w_{ij}, w_{kl}) = (AA^T)_{ik} (BB^T)_{jl}`.

=========  ======================  ==============================================================
symbol     name in code            equation
=========  ======================  ==============================================================
A, B       `lower_factor`          diag(eᵃ)(I + L), L strictly lower triangular: relative, so that
                                   one learning rate serves small and large variances
σ²_ij      `row_variance`          (AAᵀ)_ii (BBᵀ)_jj
log det    `kronecker_log_det`     2 (m Σ log A_ii + n Σ log B_jj)
o          (`layers`)              Mᵀx + sqrt(xᵀ A Aᵀ x) B ε, ε_j ~ N(0, 1)
KL         `gaussian_ard.group_kl` ½ (log det Σ_prior - log det Σ_post
                                   + Σ τ_k γ_l ((AAᵀ)_kk (BBᵀ)_ll + M_kl²) - nm)
=========  ======================  ==============================================================

A convolution with c input channels and K kernel positions is the matrix [c K, m], of which n² =
c²K² numbers at each position would cost K times the convolution itself. So its A is the Kronecker
product of a triangular factor over channels and a diagonal over the kernel, A_c ⊗ diag(a): all
channels of one kernel position are correlated, positions are not, and each has its own scale. Then
:math:`x^T A A^T x = \sum_p a_p^2 \lVert A_c^T x_p \rVert^2` is a 1x1 convolution, a sum of squares
over channels, and a convolution of one channel.

With a diagonal added, the covariance is BBᵀ ⊗ AAᵀ + diag(d²): sampled exactly, as a sum of two
independent draws. Its log-determinant is bounded from below by Minkowski's inequality
(`minkowski_log_det`), which makes the divergence an upper bound and the objective still a lower
bound of the evidence.

What is lost when a row is set to zero and all else stays at its mean is ½ M_iᵀ (BBᵀ)⁻¹ M_i
((AAᵀ)⁻¹)_ii of log-density (`whiten`, `precision_diagonal`), and likewise for a column. With the
diagonal added, :math:`\mu^T (K + D)^{-1} \mu \le xy / (x + y)`, x and y the forms with K and D
alone (the parallel sum of both): it is what is used, and errs on the side of keeping.

References:
    C. Louizos, M. Welling, Structured and efficient variational deep learning with matrix Gaussian
    posteriors (2016), eqs. 3-8; R. Horn, C. Johnson, Matrix analysis (2013), theorem 7.8.21
    (Minkowski).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "kronecker_log_det",
    "lower_factor",
    "minkowski_log_det",
    "precision_diagonal",
    "row_variance",
    "whiten",
]


def lower_factor(lower: Tensor, log_diagonal: Tensor) -> Tensor:
    """Return the lower-triangular factor diag(eᵃ)(I + L).

    Args:
        lower: L, zero on and above the diagonal `[*, n, n]`.
        log_diagonal: Logarithm of the diagonal, a `[*, n]`.

    Returns:
        `[*, n, n]`.
    """
    scale = log_diagonal.exp()
    return scale.unsqueeze(-1) * lower + torch.diag_embed(scale)


def row_variance(lower: Tensor, log_diagonal: Tensor) -> Tensor:
    """Return (AAᵀ)_ii of the factor of `lower_factor`, `[*, n]`."""
    return (2.0 * log_diagonal).exp() * (1.0 + lower.square().sum(-1))


def whiten(factor: Tensor, x: Tensor) -> Tensor:
    """Return A⁻¹x, of unit covariance where x has AAᵀ.

    Args:
        factor: A, lower triangular `[*, n, n]`.
        x: `[*, n, k]`.

    Returns:
        `[*, n, k]`.
    """
    whitened: Tensor = torch.linalg.solve_triangular(factor, x, upper=False)
    return whitened


def precision_diagonal(factor: Tensor) -> Tensor:
    """Return ((AAᵀ)⁻¹)_ii, one over each variance given all others, `[*, n]`.

    Args:
        factor: A, lower triangular `[*, n, n]`.
    """
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return whiten(factor, identity.expand_as(factor)).square().sum(-2)


def kronecker_log_det(first: Tensor, second: Tensor) -> Tensor:
    """Return log det of (AAᵀ) ⊗ (BBᵀ): 2 (m Σ log A_ii + n Σ log B_jj).

    Args:
        first: log A_ii `[*, n]`.
        second: log B_jj `[*, m]`.

    Returns:
        `[*]`.

    >>> kronecker_log_det(torch.zeros(3), torch.ones(2))
    tensor(12.)
    """
    n, m = first.shape[-1], second.shape[-1]
    return 2.0 * (m * first.sum(-1) + n * second.sum(-1))


def minkowski_log_det(first: Tensor, second: Tensor, size: int) -> Tensor:
    """Return a lower bound of log det(K + D) of positive definite K and D.

    det(K + D)^(1/N) ≥ det(K)^(1/N) + det(D)^(1/N): never below the larger of the two
    log-determinants, and exact where D is a multiple of K.

    Args:
        first: log det K `[*]`.
        second: log det D `[*]`.
        size: Their number of rows N.

    References:
        Minkowski's determinant inequality; Horn and Johnson 2013, theorem 7.8.21.
    """
    return size * torch.logaddexp(first / size, second / size)
