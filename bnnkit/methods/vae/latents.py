r"""Which latents a VAE uses, and what its divergence is spent on.

.. math:: E_x\,KL(q(z|x) \| p) = \underbrace{I_q(x; z)}_{\text{what z tells about x}}
   + \underbrace{KL(q(z) \| p)}_{\text{aggregate from prior}}, \quad q(z) = \tfrac1N\sum_n q(z|x_n)

References:
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (2016), sec. 5 (active
    units); Hoffman and Johnson, ELBO surgery (2016), eq. 6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.methods.vae.latent_model import log_standard_normal

__all__ = ["ACTIVE", "Divergence", "Usage", "latent_usage", "split_divergence"]

ACTIVE = 0.01
"""Variance over data of a latent's posterior mean above which it counts as active."""
_CHUNK = 2**24
"""Numbers held at once."""


@dataclass(frozen=True, eq=False)
class Usage:
    """What each of d latents carries.

    Args:
        activity: Cov_x(E_q[z_u]) `[d]`.
        kl: Mean over data of the KL of the marginal N(m_u, s_u²) to N(0, 1), of a binary latent
            to its own prior, nats `[d]`; they add up to the whole KL where latents are
            independent under q.
    """

    activity: Tensor
    kl: Tensor

    @property
    def active(self) -> Tensor:
        """Which latents are active `[d]`."""
        return self.activity > ACTIVE


@dataclass(frozen=True)
class Divergence:
    """Mean KL to the prior over N data and its two parts, in nats.

    Args:
        total: The sum of both.
        mutual_information: I_q(x; z), over the N data: at most log N, and near it only a bound.
        marginal_kl: KL of the aggregate posterior of the N data to the prior.
        se: Standard error of `mutual_information` over data and draws.
    """

    total: float
    mutual_information: float
    marginal_kl: float
    se: float


def latent_usage(posterior: Posterior) -> Usage:
    """Return activity and divergence of each latent, over the n data, n at least 2."""
    mean, sigma = (t.detach().double() for t in posterior.marginals())
    if isinstance(posterior, Bernoulli):
        kl = posterior.kl_of_latents().detach().double()
    else:
        kl = 0.5 * (sigma.square() + mean.square() - 1 - 2 * sigma.log())
    return Usage(mean.var(0), kl.mean(0))


@torch.no_grad()
def split_divergence(
    posterior: Posterior, noise: Tensor, log_prior: Tensor | None = None
) -> Divergence:
    """Return the split of the mean KL, by draws from each datum's posterior.

    Args:
        posterior: Of n data; each draw is compared with all of them.
        noise: Standard normal numbers `[s, n, d]`.
        log_prior: log p of `posterior.sample(noise)[0]`, `[s, n]`; None takes N(0, I).
    """
    z, log_q = posterior.sample(noise)
    n, d = z.shape[1:]
    if log_prior is None:
        log_prior = log_standard_normal(z)
    flat = z.reshape(-1, 1, d)
    size = max(1, _CHUNK // (n * d))
    aggregate = torch.cat(
        [
            posterior.log_prob(part.expand(-1, n, d)).double().logsumexp(1)
            for part in torch.split(flat, size)
        ]
    ) - math.log(n)
    information = log_q.double().flatten() - aggregate
    marginal = float((aggregate - log_prior.double().flatten()).mean())
    # Draws of one datum are not independent of each other; data are.
    by_datum = information.view(len(noise), n).mean(0)
    mutual = float(by_datum.mean())
    return Divergence(mutual + marginal, mutual, marginal, float(by_datum.std() / n**0.5))
