"""The evidence lower bound of a variational autoencoder with Bernoulli pixels.

References:
    Kingma and Welling, Auto-Encoding Variational Bayes (2014), eq. 10 and appendix B.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Elbo", "bernoulli_elbo", "binarise"]

_MARGIN = 1e-6
"""Probabilities are kept so far from 0 and 1, where float32 logarithms end."""


class Elbo(NamedTuple):
    """The two parts of the bound for each image.

    Args:
        log_likelihood: log p(x | z) at one sampled z, in nats `[n]`.
        kl: KL(q(z | x) || N(0, I)), in nats `[n]`.
    """

    log_likelihood: Tensor
    kl: Tensor

    @property
    def bound(self) -> Tensor:
        """The bound on log p(x), an estimate from one sample, in nats `[n]`."""
        return self.log_likelihood - self.kl


def bernoulli_elbo(pixels: Tensor, probabilities: Tensor, mean: Tensor, log_var: Tensor) -> Elbo:
    """Return the bound of binary images.

    Args:
        pixels: Zeros and ones `[n, ...]`. Grey values have no Bernoulli likelihood: `binarise`
            them first.
        probabilities: P(pixel = 1 | z) at one z ~ q(z | x), `[n, ...]`, as many as pixels; kept
            within [1e-6, 1 - 1e-6].
        mean: Mean of q(z | x), `[n, d]`.
        log_var: Log variance of q(z | x), `[n, d]`.
    """
    x = pixels.flatten(1)
    # within this margin it is the likelihood of a proper model, and finite; NaN stays NaN
    p = probabilities.float().flatten(1).clamp(_MARGIN, 1 - _MARGIN)
    log_likelihood = (x * p.log() + (1 - x) * torch.log1p(-p)).sum(1)
    mean, log_var = mean.float(), log_var.float()
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1)
    return Elbo(log_likelihood, kl)


def binarise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw each pixel as 1 with its grey value in [0, 1] as the probability.

    Args:
        images: Grey values `[n, ...]`, on the CPU.
        generator: Source of the draws.

    Returns:
        Zeros and ones, float32 `[n, ...]`.
    """
    return torch.bernoulli(images, generator=generator)
