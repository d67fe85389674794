r"""The evidence lower bound, and the log-likelihood by importance sampling from a posterior.

With draws :math:`z_s \sim q(z | x)` and weights :math:`w_s = p(x, z_s) / q(z_s | x)`,

.. math:: L = E[\log w], \qquad L_S = \log \tfrac1S \sum_s w_s \le \log p(x)\ \text{on average}.

======  ===========  ================================================================
symbol  name         meaning
======  ===========  ================================================================
L       `bound`      evidence lower bound
L_S     `log_p`      importance-weighted bound; rises to log p(x) with S; L_1 is L
ESS     `ess`        (Σ w)² / Σ w², draws of the true posterior that they are worth
k       `k_hat`      shape of the tail of the weights (`bayes.pareto`); above 0.7 L_S is
                     still rising, whatever its standard error says
======  ===========  ================================================================

Of a chain, log q is that of all its states with the transitions back taken off: both are bounds
in the extended space, and so on log p(x).

The standard error of L_S is that of the mean weight, by the delta method: sqrt(1/ESS - 1/S).

References:
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (2016), eq. 8; Vehtari,
    Simpson, Gelman, Yao and Gabry, Pareto smoothed importance sampling (2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.importance import effective_sample_size
from bnnkit.bayes.pareto import pareto_shape
from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.latent_model import LatentModel

__all__ = ["ElboParts", "Importance", "elbo", "importance", "log_weights"]

_ROWS = 4096
"""Latents that are decoded at once."""


@dataclass(frozen=True, eq=False)
class ElboParts:
    """The evidence lower bound of n data, and its two parts, in nats.

    Args:
        bound: `log_likelihood` - `kl` `[n]`.
        log_likelihood: E_q[log p(x | z)] `[n]`, over the draws.
        kl: KL(q || p) `[n]`: in closed form where there is one.
        kl_draws: The same over the draws `[n]`.
        se: Standard error of `bound` over draws `[n]`; infinite for one draw.
    """

    bound: Tensor
    log_likelihood: Tensor
    kl: Tensor
    kl_draws: Tensor
    se: Tensor


@dataclass(frozen=True, eq=False)
class Importance:
    """Estimates of log p(x) of n data, in nats.

    Args:
        samples: Numbers of draws S, rising; the estimates are of the first S draws `[c]`.
        log_p: L_S `[c, n]`.
        se: Its standard error `[c, n]`.
        ess: Of all draws `[n]`.
        k_hat: Of all draws `[n]`; NaN with fewer than 25.
    """

    samples: tuple[int, ...]
    log_p: Tensor
    se: Tensor
    ess: Tensor
    k_hat: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of `log_p` over data `[c]`."""
        return self.log_p.mean(1)

    @property
    def mean_se(self) -> Tensor:
        """Standard error of `mean` over draws, for these very data `[c]`."""
        return self.se.square().sum(1).sqrt() / self.se.shape[1]


@torch.no_grad()
def log_weights(
    model: LatentModel, x: Tensor, posterior: Posterior, samples: int, generator: torch.Generator
) -> Tensor:
    """Return log p(x, z) - log q(z) of draws of q, in chunks.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        posterior: q, of the n data.
        samples: S.
        generator: Source of the draws.

    Returns:
        `[S, n]`, float64; NaN has become minus infinity.
    """
    chunk = max(1, _ROWS // len(x))
    parts = []
    for first in range(0, samples, chunk):
        count = min(chunk, samples - first)
        z, log_q = posterior.sample(_normal(count, x, posterior, generator))
        parts.append((model.log_joint(x, z) - log_q).double())
    return torch.cat(parts).nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def importance(
    model: LatentModel,
    x: Tensor,
    posterior: Posterior,
    samples: int | Sequence[int],
    *,
    generator: torch.Generator,
    batch_size: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Return the importance-weighted bound with its diagnostics.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        posterior: q, of the n data.
        samples: Numbers of draws to estimate from; fewer are the first of more.
        generator: Source of the draws.
        batch_size: Data at once.
        progress: Called with the number of data done, and of all.
    """
    counts = (samples,) if isinstance(samples, int) else tuple(sorted(samples))
    parts = []
    for i in range(0, len(x), batch_size):
        rows = slice(i, i + batch_size)
        log_w = log_weights(model, x[rows], posterior.rows(rows), counts[-1], generator)
        parts.append(_summary(log_w, counts))
        if progress is not None:
            progress(min(i + batch_size, len(x)), len(x))
    log_p, se, ess, k_hat = (torch.cat(t, -1) for t in zip(*parts, strict=True))
    return Importance(counts, log_p, se, ess, k_hat)


@torch.no_grad()
def elbo(
    model: LatentModel,
    x: Tensor,
    posterior: Posterior,
    samples: int,
    *,
    generator: torch.Generator,
    batch_size: int = 100,
) -> ElboParts:
    """Return the evidence lower bound and its parts.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        posterior: q, of the n data.
        samples: Draws of q.
        generator: Source of the draws: those of `importance` with the same batch size.
        batch_size: Data at once.
    """
    parts = []
    for i in range(0, len(x), batch_size):
        rows = slice(i, i + batch_size)
        parts.append(_parts(model, x[rows], posterior.rows(rows), samples, generator))
    return ElboParts(*(torch.cat(t) for t in zip(*parts, strict=True)))


def _parts(
    model: LatentModel, x: Tensor, q: Posterior, samples: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    chunk = max(1, _ROWS // len(x))
    likelihood, divergence = [], []
    for first in range(0, samples, chunk):
        z, log_q = q.sample(_normal(min(chunk, samples - first), x, q, generator))
        likelihood.append(model.log_likelihood(x, z).double())
        divergence.append((log_q - model.log_prior(z)).double())
    log_p, kl = torch.cat(likelihood), torch.cat(divergence)
    closed = model.knows_kl(q)
    terms = log_p if closed else log_p - kl
    exact = q.kl().double() if closed else kl.mean(0)
    one = torch.full_like(exact, math.inf)
    se = terms.std(0) / math.sqrt(samples) if samples > 1 else one
    return log_p.mean(0) - exact, log_p.mean(0), exact, kl.mean(0), se


def _normal(count: int, x: Tensor, q: Posterior, generator: torch.Generator) -> Tensor:
    shape = (count, len(x), q.noise_width)
    return torch.randn(shape, generator=generator, device=generator.device).to(x.device)


def _summary(log_w: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log_p and se `[c, n]`, ess and k_hat `[n]`."""
    log_p, errors, worth = [], [], torch.empty(0)
    for count in counts:
        total = log_w[:count].logsumexp(0)
        worth = effective_sample_size(log_w[:count])
        log_p.append(total - math.log(count))
        errors.append((1 / worth - 1 / count).clamp_min(0).sqrt())
    k_hat = torch.tensor([pareto_shape(w) for w in log_w.cpu().T], dtype=torch.float64)
    return torch.stack(log_p), torch.stack(errors), worth, k_hat.to(log_w.device)
