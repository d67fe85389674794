r"""Where the distance from the encoder's bound to log p(x) comes from.

=============  ===========================================================  ==================
part           difference                                                   what would close it
=============  ===========================================================  ==================
amortisation   best diagonal posterior of the datum - the encoder's         refinement
family         best posterior with a full covariance - the diagonal one     a richer family
rest           log p(x) by importance sampling - the full one               richer still
=============  ===========================================================  ==================

Of binary latents the best posterior is sought among Bernoullis of each, and no richer family is
tried: the rest is all that is beyond them.

References:
    Cremer, Li and Duvenaud, Inference suboptimality in variational autoencoders (2018), sec. 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.importance import importance
from bnnkit.methods.vae.refine import Refined
from bnnkit.run.vae.measure import amortised, measured_bound, nats
from bnnkit.run.vae.refining import refine_posteriors
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec import Quantity
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["MOST_FULL", "split_gap", "trained_bound"]

MOST_FULL = 64
"""Most latents whose covariance is fitted in full here."""

_STEPS, _DRAWS, _REPORT = 200, 8, 100


def split_gap(bench: VaeBench, x: Tensor, samples: int, seed: int) -> dict[str, Any]:
    """Return the bounds of ever richer posteriors of the same data, and their differences.

    Args:
        bench: The autoencoder.
        x: Data `[n, D]`, few.
        samples: Importance samples behind log p(x).
        seed: Of all draws.
    """
    long = RefineConfig(steps=_STEPS, samples=_DRAWS, report_samples=_REPORT, seed=seed)
    binary = bench.belief is not None
    if binary:  # of the three ways the one that ascends the bound itself
        long = replace(long, optimiser="straight-through", samples=None)
    diagonal = _optimum(bench, x, long)
    name = "bernoulli" if binary else "diagonal"
    bounds = {"encoder": diagonal.elbo_before, name: diagonal.elbo_after}
    best: Posterior = diagonal.posterior
    if bench.auto.latent <= MOST_FULL and not binary:
        full = _optimum(bench, x, replace(long, family="full"))
        # a full covariance holds the diagonal optimum: which of both is better is known
        bounds["full"] = torch.maximum(full.elbo_after, diagonal.elbo_after)
        best = full.posterior
    source = torch.Generator().manual_seed(seed + 1)
    found = importance(bench.model, x, best, samples, generator=source)
    bounds["log_p"] = found.log_p[-1]
    names = list(bounds)
    parts = dict(zip(("amortisation", "family", "rest"), names[1:], strict=False))
    if "full" not in bounds:
        parts = {"amortisation": name, "rest": "log_p"}
    differences = {
        part: nats((bounds[upper] - bounds[names[i]]).double())
        for i, (part, upper) in enumerate(parts.items())
    }
    return {
        "n": len(x),
        "bounds": {name: nats(value) for name, value in bounds.items()},
        "parts": differences,
        "samples": samples,
        "ess_median": float(found.ess.median()),
        "steps": _STEPS,
    }


def trained_bound(bench: VaeBench, x: Tensor, seed: int) -> Quantity:
    """Return the bound of a trained posterior, to stand beside those of the split.

    Args:
        bench: The autoencoder under the trained posterior.
        x: Data `[n, D]`, few.
        seed: Of all draws.
    """
    q = amortised(bench, x, len(x))
    return nats(measured_bound(bench, x, q, _REPORT, seed, len(x)).bound)


def _optimum(bench: VaeBench, x: Tensor, config: RefineConfig) -> Refined:
    source = torch.Generator().manual_seed(config.seed)
    return refine_posteriors(bench, x, config, source)
