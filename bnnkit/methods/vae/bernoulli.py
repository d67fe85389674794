r"""Bernoulli posteriors of independent binary latents, beside the Gaussian families.

.. math:: q(h) = \prod_i \mu_i^{h_i} (1 - \mu_i)^{1 - h_i}, \quad \mu = \sigma(l), \quad
   h = [\Phi(\epsilon) < \mu]

with standard normal noise ε, as of every other family: Φ(ε) is uniform. So a belief net is judged
by what judges all autoencoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.belief import bernoulli_kl, bernoulli_kl_terms, log_bernoulli

__all__ = ["Bernoulli"]


@dataclass(frozen=True, eq=False)
class Bernoulli(Posterior):
    """Bernoulli(sigmoid(logits)) of each latent, and the prior that divergences are taken from.

    Args:
        logits: `[n, d]`.
        prior: Logits of p(h), `[d]`; the same for all data, and no parameter of q.
    """

    logits: Tensor
    prior: Tensor

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return draws, zeros and ones without a gradient, and their log probabilities.

        Args:
            noise: Standard normal numbers `[s, n, d]`.
        """
        h = (torch.special.ndtr(noise) < torch.sigmoid(self.logits)).to(self.logits)
        return h, log_bernoulli(h, self.logits)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(h) in nats, `[s, n, d]` to `[s, n]`."""
        return log_bernoulli(z, self.logits)

    def kl(self) -> Tensor:
        """Return KL(q || p(h)) in nats `[n]`: from the model's own prior, not from N(0, I)."""
        return bernoulli_kl(self.logits, self.prior)

    def kl_of_latents(self) -> Tensor:
        """Return what each latent adds to `kl`, `[n, d]`."""
        return bernoulli_kl_terms(self.logits, self.prior)

    def marginals(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each latent, each `[n, d]`."""
        mean = torch.sigmoid(self.logits)
        return mean, (mean * (1 - mean)).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Return the tensors by name; the prior belongs to the model."""
        return {"logits": self.logits}

    def replace(self, tensors: list[Tensor]) -> Self:
        """Return a posterior under the same prior with other `parameters()`."""
        (logits,) = tensors
        return type(self)(logits, self.prior)
