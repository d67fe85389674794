r"""Gaussians with a full covariance, by its Cholesky factor.

.. math:: q(z) = N(m, LL^T), \quad L = \mathrm{diag}(e^a)(I + K), \quad z = m + L \epsilon, \quad
   KL = \tfrac12 (\lVert L \rVert_F^2 + \lVert m \rVert^2 - d) - \sum_i a_i

with K strictly lower triangular: relative to its row's scale, so that one learning rate serves
small and large variances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bnnkit.bayes.matrix_normal import lower_factor, whiten
from bnnkit.bayes.posteriors.base import Posterior

__all__ = ["FullRank"]


@dataclass(frozen=True, eq=False)
class FullRank(Posterior):
    """N(mean, LLᵀ).

    Args:
        mean: `[n, d]`.
        lower: K `[n, d, d]`; what stands on and above the diagonal is not used.
        log_diagonal: a `[n, d]`.
    """

    mean: Tensor
    lower: Tensor
    log_diagonal: Tensor

    @classmethod
    def amortised(cls, mean: Tensor, log_sigma: Tensor) -> Self:
        """Return N(mean, diag sigma²) itself."""
        d = mean.shape[-1]
        return cls(mean, mean.new_zeros(*mean.shape, d), log_sigma)

    @classmethod
    def from_factor(cls, mean: Tensor, factor: Tensor) -> Self:
        """Return N(mean, LLᵀ) of a lower-triangular L `[n, d, d]` with a positive diagonal."""
        diagonal = factor.diagonal(dim1=-2, dim2=-1)
        return cls(mean, (factor / diagonal.unsqueeze(-1)).tril(-1), diagonal.log())

    def factor(self) -> Tensor:
        """Return L `[n, d, d]`."""
        return lower_factor(self.lower.tril(-1), self.log_diagonal)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        moved = torch.einsum("nij,snj->sni", self.factor(), noise)
        return self.mean + moved, self._log_density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`."""
        centred = (z - self.mean).permute(1, 2, 0)
        return self._log_density(whiten(self.factor(), centred).permute(2, 0, 1))

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats `[n]`."""
        square = self.factor().square().sum((-2, -1)) + self.mean.square().sum(-1)
        return 0.5 * (square - self.mean.shape[-1]) - self.log_diagonal.sum(-1)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        return self.mean, self.factor().square().sum(-1).sqrt()

    def _log_density(self, noise: Tensor) -> Tensor:
        d = noise.shape[-1]
        volume = self.log_diagonal.sum(-1) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - volume
