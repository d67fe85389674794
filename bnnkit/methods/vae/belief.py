r"""A model with binary latents: its bound, importance sampling, gradients through its samples.

=======================  ==========================  ==========================================
symbol                   here                        what
=======================  ==========================  ==========================================
:math:`h`                `h` `[s, n, L]`             latents, zeros and ones
:math:`\mu = \sigma(l)`  `logits` `[n, L]` are l     q(h | x), a Bernoulli of each latent
:math:`w^{(s)}`          `log_weights` `[s, n]`      p(x, h) / q(h | x) at h ~ q
:math:`L_1`              `bound` `[n]`               E_q log p(x | h) - KL(q(h | x) || p(h))
=======================  ==========================  ==========================================

References:
    Hjelm et al., Iterative refinement of the approximate posterior for directed belief networks
    (2016), secs. 2 and 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnnkit.bayes.importance import effective_sample_size

__all__ = [
    "BeliefModel",
    "ImportanceEstimate",
    "belief_model",
    "bernoulli_kl",
    "bernoulli_kl_terms",
    "bound",
    "draw",
    "importance_log_likelihood",
    "log_bernoulli",
    "log_weights",
    "straight_through",
    "uniforms",
]

_ROWS = 20_000
"""Latent vectors decoded at once when many samples are drawn, which bounds the memory."""


def log_bernoulli(value: Tensor, logits: Tensor) -> Tensor:
    """Return log Bernoulli(value | sigmoid(logits)) in nats, summed over the last dimension.

    Args:
        value: Zeros and ones, of a shape that broadcasts with the logits.
        logits: `[*, d]`.
    """
    # the softplus is taken of the logits as they are, not at the broadcast shape
    return (value * logits).sum(-1) - F.softplus(logits).sum(-1)


def bernoulli_kl(logits: Tensor, prior: Tensor) -> Tensor:
    """Return KL(Bernoulli(sigmoid(logits)) || Bernoulli(sigmoid(prior))) in nats.

    Args:
        logits: `[*, L]`.
        prior: `[L]` or `[*, L]`.

    Returns:
        The sum over the L latents, `[*]`.
    """
    return bernoulli_kl_terms(logits, prior).sum(-1)


def bernoulli_kl_terms(logits: Tensor, prior: Tensor) -> Tensor:
    """Return what each latent adds to `bernoulli_kl`, `[*, L]`."""
    gap = torch.sigmoid(logits) * (logits - prior)
    return gap - F.softplus(logits) + F.softplus(prior)


@dataclass(frozen=True, eq=False)
class BeliefModel:
    """Recognition net q(h | x), prior p(h) and decoder p(x | h), all Bernoulli.

    Args:
        encode: Data `[n, D]` to the logits of q(h | x), `[n, L]`.
        decode: Latents `[m, L]` to the logits of p(x | h), `[m, D]`.
        prior_logits: Returns the logits of p(h), `[L]`.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    prior_logits: Callable[[], Tensor]

    def log_likelihood(self, x: Tensor, h: Tensor) -> Tensor:
        """Return log p(x | h) in nats, of `x` `[n, D]` and `h` `[*, n, L]`, as `[*, n]`."""
        logits = self.decode(h.flatten(0, -2))
        return log_bernoulli(x, logits.reshape(*h.shape[:-1], *logits.shape[1:]))

    def log_joint(self, x: Tensor, h: Tensor) -> Tensor:
        """Return log p(x, h) in nats, of `x` `[n, D]` and `h` `[*, n, L]`, as `[*, n]`."""
        return self.log_likelihood(x, h) + log_bernoulli(h, self.prior_logits())


def belief_model(module: nn.Module) -> BeliefModel:
    """Return a module with `encode`, `decode` and `prior_logits` as a model."""
    return BeliefModel(module.encode, module.decode, module.prior_logits)  # type: ignore[arg-type]


def draw(logits: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Draw zeros and ones from Bernoulli(sigmoid(logits)).

    Args:
        logits: `[*, L]`.
        samples: s.
        generator: Source of the draws, on the device of the logits.

    Returns:
        `[s, *, L]`, without a gradient.
    """
    return (uniforms(logits, samples, generator) < torch.sigmoid(logits)).to(logits)


def uniforms(logits: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Draw uniform numbers `[s, *, L]` for logits `[*, L]`: h = [u < sigmoid(logits)]."""
    shape = (samples, *logits.shape)
    return torch.rand(shape, generator=generator, device=logits.device, dtype=logits.dtype)


def straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """Return h = [u < mu], whose derivative by mu = sigmoid(logits) is taken to be 1 (eq. 8).

    Args:
        logits: `[n, L]`.
        noise: u, uniform `[s, n, L]`.

    Returns:
        Zeros and ones `[s, n, L]`.
    """
    mean = torch.sigmoid(logits)
    return (noise < mean).to(mean) + (mean - mean.detach())


def bound(model: BeliefModel, x: Tensor, logits: Tensor, h: Tensor) -> Tensor:
    """Return the lower bound on log p(x); the divergence from the prior is in closed form.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        logits: Of q(h | x), `[n, L]`.
        h: Samples of it `[s, n, L]`.

    Returns:
        An unbiased estimate for each datum in nats, `[n]`.
    """
    divergence = bernoulli_kl(logits, model.prior_logits())
    return model.log_likelihood(x, h).mean(0) - divergence


def log_weights(model: BeliefModel, x: Tensor, logits: Tensor, h: Tensor) -> Tensor:
    """Return log w = log p(x, h) - log q(h | x) in nats; arguments as of `bound`, `[s, n]`."""
    return model.log_joint(x, h) - log_bernoulli(h, logits)


class ImportanceEstimate(NamedTuple):
    """What samples of q tell of log p(x).

    Args:
        log_likelihood: log of the mean weight, in nats, float64 `[n]`; in expectation a lower
            bound that tightens with the number of samples.
        ess: Kish's effective sample size of the weights, float64 `[n]`.
    """

    log_likelihood: Tensor
    ess: Tensor


@torch.no_grad()
def importance_log_likelihood(
    model: BeliefModel, x: Tensor, logits: Tensor, samples: int, generator: torch.Generator
) -> ImportanceEstimate:
    """Estimate log p(x) by importance sampling from q(h | x).

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        logits: Of q(h | x), amortised or refined, `[n, L]`.
        samples: s, of each datum.
        generator: Source of the draws.
    """
    at_once = max(1, _ROWS // max(1, len(x)))
    sizes = [at_once] * (samples // at_once) + [samples % at_once] * (samples % at_once > 0)
    parts = [log_weights(model, x, logits, draw(logits, size, generator)) for size in sizes]
    log_w = torch.cat(parts).double()
    return ImportanceEstimate(log_w.logsumexp(0) - math.log(samples), effective_sample_size(log_w))
