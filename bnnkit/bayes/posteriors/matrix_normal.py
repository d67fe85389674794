r"""Matrix-normal posteriors: the latents of a datum as a matrix of R rows and C columns.

.. math:: q(Z) = MN(M, AA^T, BB^T), \qquad Z = M + A X B^T, \quad X_{ij} \sim N(0, 1), \\
   KL = \tfrac12 (\lVert A \rVert_F^2 \lVert B \rVert_F^2 + \lVert M \rVert_F^2 - RC)
   - C \sum_i \log A_{ii} - R \sum_j \log B_{jj}

R² + C² numbers for all correlations, where a full covariance has (RC)². The factors are those of
`bayes.matrix_normal.lower_factor`. Latents are numbered row by row.

References:
    Louizos and Welling, Structured and efficient variational deep learning with matrix Gaussian
    posteriors (2016), eqs. 3-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bnnkit.bayes.matrix_normal import kronecker_log_det, lower_factor, whiten
from bnnkit.bayes.posteriors.base import Posterior

__all__ = ["MatrixNormal"]


@dataclass(frozen=True, eq=False)
class MatrixNormal(Posterior):
    """MN(M, AAᵀ, BBᵀ).

    Args:
        mean: M, row by row `[n, R C]`.
        row_lower: L of A `[n, R, R]`; what stands on and above the diagonal is not used.
        row_log_diagonal: log A_ii `[n, R]`.
        column_lower: L of B `[n, C, C]`, likewise.
        column_log_diagonal: log B_jj `[n, C]`.
    """

    mean: Tensor
    row_lower: Tensor
    row_log_diagonal: Tensor
    column_lower: Tensor
    column_log_diagonal: Tensor

    @classmethod
    def amortised(cls, mean: Tensor, log_sigma: Tensor, rows: int, columns: int) -> Self:
        """Return MN with log sigma_ij = a_i + b_j, nearest in least squares to log_sigma.

        Args:
            mean: `[n, R C]`.
            log_sigma: `[n, R C]`.
            rows: R.
            columns: C.
        """
        n = mean.shape[0]  # not len(): a graph that is traced for export keeps this a variable
        table = log_sigma.reshape(n, rows, columns)
        centre = 0.5 * table.mean((1, 2)).unsqueeze(-1)
        return cls(
            mean,
            mean.new_zeros(n, rows, rows),
            table.mean(2) - centre,
            mean.new_zeros(n, columns, columns),
            table.mean(1) - centre,
        )

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A `[n, R, R]` and B `[n, C, C]`."""
        return (
            lower_factor(self.row_lower.tril(-1), self.row_log_diagonal),
            lower_factor(self.column_lower.tril(-1), self.column_log_diagonal),
        )

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        a, b = self.factors()
        moved = a @ self._matrix(noise) @ b.mT
        return self.mean + moved.flatten(-2), self._log_density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`."""
        a, b = self.factors()
        left = whiten(a.expand(len(z), *a.shape), self._matrix(z - self.mean))
        noise = whiten(b.expand(len(z), *b.shape), left.mT).mT
        return self._log_density(noise.flatten(-2))

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats `[n]`."""
        a, b = self.factors()
        spread = a.square().sum((-2, -1)) * b.square().sum((-2, -1))
        square = spread + self.mean.square().sum(-1)
        return 0.5 * (square - self.mean.shape[-1] - self._log_det())

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        a, b = (factor.square().sum(-1) for factor in self.factors())
        return self.mean, (a.unsqueeze(-1) * b.unsqueeze(-2)).sqrt().flatten(-2)

    def _log_det(self) -> Tensor:
        return kronecker_log_det(self.row_log_diagonal, self.column_log_diagonal)

    def _matrix(self, x: Tensor) -> Tensor:
        rows, columns = self.row_log_diagonal.shape[-1], self.column_log_diagonal.shape[-1]
        return torch.unflatten(x, -1, (rows, columns))

    def _log_density(self, noise: Tensor) -> Tensor:
        d = noise.shape[-1]
        volume = 0.5 * (self._log_det() + d * math.log(2 * math.pi))
        return -0.5 * noise.square().sum(-1) - volume
