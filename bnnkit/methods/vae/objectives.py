r"""What the training of an autoencoder maximises, per datum, from draws of q(z | x).

With w = p(x, z) / q(z | x), S draws of z ~ q(z | x), and β the weight of the divergence:

=======  ====================================================================================
name     objective
=======  ====================================================================================
`elbo`   estimator A: mean_s [log p(x | z_s) + β (log p(z_s) - log q(z_s | x))]
`elbo`   estimator B: mean_s log p(x | z_s) - β KL(q(z | x) || p(z))
`iwae`   log mean_s w_s: the ELBO for S = 1, log p(x) as S grows
`alpha`  the variational Rényi bound, log mean_s w_s^(1 - α) / (1 - α): the ELBO as α tends to 1,
         the IWAE at 0
=======  ====================================================================================

With β = 1 the first three never exceed log p(x) in expectation; a Rényi bound does so for α < 0.
Chains (`layers.annealed_chain`) have w = p(x, z_T) Π r_t / (q_0 Π q_t), of which all of these are
bounds too: log q in the table is log q_0 + Σ log q_t - Σ log r_t.

References:
    Kingma and Welling, Auto-encoding variational Bayes (2014), eqs. 6-7; Higgins et al., beta-VAE
    (2017), eq. 4; Burda et al., Importance weighted autoencoders (2016), eq. 8; Li and Turner,
    Rényi divergence variational inference (2016), eq. 8.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Terms", "elbo", "iwae", "renyi"]

_NEAR_ONE = 1e-6


class Terms(NamedTuple):
    """The parts of a bound at S draws of each of n data, in nats.

    Args:
        log_likelihood: log p(x | z), `[S, n]`.
        log_prior: log p(z), `[S, n]`.
        log_q: log q(z | x), `[S, n]`.
        kl: KL(q(z | x) || p(z)) in closed form `[n]`, where there is one.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    kl: Tensor | None = None

    @property
    def log_weight(self) -> Tensor:
        """The log importance weights log p(x, z) - log q(z | x), `[S, n]`."""
        return self.log_likelihood + self.log_prior - self.log_q


def elbo(terms: Terms, *, weight: float = 1.0, analytic: bool = False) -> Tensor:
    """Return the evidence lower bound of each datum, `[n]`.

    Args:
        terms: Its parts.
        weight: β.
        analytic: Estimator B, with the divergence in closed form; else A.

    Raises:
        ValueError: Estimator B without a closed form.
    """
    if not analytic:
        return (terms.log_likelihood + weight * (terms.log_prior - terms.log_q)).mean(0)
    if terms.kl is None:
        raise ValueError("the divergence has no closed form")
    return terms.log_likelihood.mean(0) - weight * terms.kl


def iwae(terms: Terms) -> Tensor:
    """Return the importance-weighted bound of each datum, `[n]`."""
    log_weight = terms.log_weight
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def renyi(terms: Terms, alpha: float) -> Tensor:
    """Return the variational Rényi bound of order alpha of each datum, `[n]`."""
    if abs(1 - alpha) < _NEAR_ONE:
        return elbo(terms)
    log_weight = terms.log_weight
    scaled = torch.logsumexp((1 - alpha) * log_weight, 0) - math.log(len(log_weight))
    return scaled / (1 - alpha)
