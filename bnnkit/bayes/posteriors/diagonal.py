r"""Gaussians with independent latents.

.. math:: q(z) = N(m, \mathrm{diag}\,\sigma^2), \quad z = m + \sigma \epsilon, \quad
   KL = \tfrac12 \sum_i (\sigma_i^2 + m_i^2 - 1 - \log \sigma_i^2)

References:
    Kingma and Welling, Auto-Encoding Variational Bayes (2014), appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from bnnkit.bayes.posteriors.base import Posterior

__all__ = ["Diagonal"]


@dataclass(frozen=True, eq=False)
class Diagonal(Posterior):
    """N(mean, diag sigma²).

    Args:
        mean: `[n, d]`.
        log_sigma: `[n, d]`.
    """

    mean: Tensor
    log_sigma: Tensor

    @classmethod
    def amortised(cls, mean: Tensor, log_sigma: Tensor) -> Self:
        """Return N(mean, diag sigma²) itself."""
        return cls(mean, log_sigma)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws and their log densities; see `Posterior.sample`."""
        return self.mean + self.log_sigma.exp() * noise, self._log_density(noise)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z) in nats, `[s, n, d]` to `[s, n]`."""
        return self._log_density((z - self.mean) * (-self.log_sigma).exp())

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) in nats `[n]`."""
        two = 2 * self.log_sigma
        return 0.5 * (two.exp() + self.mean.square() - 1 - two).sum(-1)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        return self.mean, self.log_sigma.exp()

    def _log_density(self, noise: Tensor) -> Tensor:
        d = noise.shape[-1]
        volume = self.log_sigma.sum(-1) + 0.5 * d * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - volume
