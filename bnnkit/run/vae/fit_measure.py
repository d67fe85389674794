"""What a trained autoencoder reaches: its bound, and an importance-sampled log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.importance import effective_sample_size
from bnnkit.methods.vae.amortised import terms_of
from bnnkit.methods.vae.fit_losses import Trainee, bound_of
from bnnkit.run.progress import Progress
from bnnkit.run.vae.measure import nats
from bnnkit.spec import Quantity

__all__ = ["Likelihood", "mean_bound", "measure_bound", "measure_likelihood"]

_BATCH = 500
_ROWS = 20_000
"""Latents decoded at once, which bounds the memory."""
_SEED = 0
"""The same noise whatever the seed of the training, so that runs compare."""


def mean_bound(net: Trainee, x: Tensor, *, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Return the bound of each datum and the divergence in it, in nats, float64 `[n]` on the CPU.

    Args:
        net: What was trained.
        x: Data `[n, D]`.
        samples: Draws of each posterior.
    """
    net.module.eval()
    source = torch.Generator().manual_seed(_SEED)
    parts = [bound_of(net, batch, samples, source) for batch in torch.split(x, _BATCH)]
    bound, kl = (torch.cat(values).double().cpu() for values in zip(*parts, strict=True))
    return bound, kl


def measure_bound(net: Trainee, x: Tensor, *, samples: int = 1) -> dict[str, Quantity]:
    """Return the mean bound and its divergence, with intervals over data."""
    bound, kl = mean_bound(net, x, samples=samples)
    return {"elbo": nats(bound), "kl": nats(kl)}


@dataclass(frozen=True)
class Likelihood:
    """An importance-sampled log-likelihood.

    Args:
        nll: Mean of -log p(x), an upper bound in expectation, in nats.
        ess: Mean effective sample size of the weights, of `samples`.
        samples: Draws of each posterior.
    """

    nll: Quantity
    ess: float
    samples: int


@torch.no_grad()
def measure_likelihood(net: Trainee, x: Tensor, samples: int, progress: Progress) -> Likelihood:
    """Return the log-likelihood with the trained posterior as the proposal.

    Args:
        net: What was trained.
        x: Data `[n, D]`.
        samples: Draws of each posterior.
        progress: Who is told.
    """
    net.module.eval()
    source = torch.Generator().manual_seed(_SEED)
    progress.start("importance sampling", len(x))
    values, sizes = [], []
    for batch in torch.split(x, max(1, min(_BATCH, _ROWS // samples))):
        noise = net.posterior.noise(len(batch), samples, source).to(batch.device)
        log_weight = terms_of(net.model, batch, net.posterior(net.encode(batch), noise)).log_weight
        values.append(math.log(samples) - torch.logsumexp(log_weight, 0))
        sizes.append(effective_sample_size(log_weight))
        progress.advance(len(batch))
    progress.stop()
    nll = torch.cat(values).double().cpu()
    return Likelihood(nats(nll), float(torch.cat(sizes).double().mean()), samples)


def validation(net: Trainee, x: Tensor) -> Callable[[], float]:
    """Return what measures the mean bound on held-out data, with the same noise at every call."""
    return lambda: float(mean_bound(net, x)[0].mean())
