"""Figures of posteriors: bound, likelihood by importance sampling, use of the latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.importance import ElboParts, Importance, elbo, importance
from bnnkit.methods.vae.latents import latent_usage, split_divergence
from bnnkit.metrics import mean_interval
from bnnkit.run.progress import Progress
from bnnkit.run.vae.setup import VaeBench
from bnnkit.spec import Quantity

__all__ = [
    "advancing",
    "amortised",
    "bound_figures",
    "gain_figures",
    "importance_curve",
    "importance_rows",
    "latent_figures",
    "measured_bound",
    "nats",
    "sample_importance",
]

_SPLIT_DRAWS = 4
_MOST_SPLIT = 1000
"""Data behind the split of the divergence: each draw is compared with every datum."""
_UNRELIABLE = 0.7
"""Shape of the weights' tail above which an estimate is still rising (Vehtari et al. 2024)."""


def advancing(progress: Progress) -> Callable[[int, int], None]:
    """Return what takes the number of data done, and of all, and tells the phase how far it is."""
    told = 0

    def advance(done: int, _: int) -> None:
        nonlocal told
        progress.advance(done - told)
        told = done

    return advance


def nats(values: Tensor) -> Quantity:
    """Return the mean over data with its interval.

    Args:
        values: One figure a datum `[n]`.
    """
    values = values.detach().double().cpu()
    low, high = mean_interval(values)
    return Quantity(float(values.mean()), "nats", len(values), low, high)


@torch.no_grad()
def amortised(bench: VaeBench, x: Tensor, batch_size: int) -> Posterior:
    """Return q(z | x) of data `[n, D]`, as the model at hand gives it."""
    parts = [bench.model.amortised(part) for part in torch.split(x, batch_size)]
    return parts[0].join(parts[1:])


def measured_bound(
    bench: VaeBench, x: Tensor, q: Posterior, draws: int, seed: int, batch_size: int
) -> ElboParts:
    """Return the evidence bound of each datum, and its two parts."""
    source = torch.Generator().manual_seed(seed)
    return elbo(bench.model, x, q, draws, generator=source, batch_size=batch_size)


def bound_figures(bench: VaeBench, q: Posterior, found: ElboParts, draws: int) -> dict[str, Any]:
    """Return the mean evidence bound, its two parts, and the error of its draws."""
    error = float(found.se.square().sum().sqrt() / len(found.se))
    return {
        "elbo": nats(found.bound),
        "log_likelihood": nats(found.log_likelihood),
        "kl": nats(found.kl),
        "kl_closed": bench.model.knows_kl(q),
        "kl_by_draws": nats(found.kl_draws),
        "draws": draws,
        "error_of_draws": error,
    }


def gain_figures(found: ElboParts, encoder: ElboParts) -> dict[str, Any]:
    """Return the bound of the encoder's own posterior, and what the one at hand gains over it."""
    return {
        "encoder_elbo": nats(encoder.bound),
        "encoder_gain": nats(found.bound - encoder.bound),
    }


def sample_importance(
    bench: VaeBench,
    x: Tensor,
    q: Posterior,
    samples: Sequence[int],
    seed: int,
    batch_size: int,
    progress: Progress,
) -> Importance:
    """Return the importance-weighted bounds at each number of samples."""
    progress.start("importance sampling", len(x))
    found = importance(
        bench.model, x, q, _on_the_curve(samples), batch_size=batch_size,
        generator=torch.Generator().manual_seed(seed), progress=advancing(progress),
    )  # fmt: skip
    progress.stop()
    return found


def _on_the_curve(samples: Sequence[int]) -> list[int]:
    """Return numbers of samples with 1, 2, 5, 10 ... up to the largest among them."""
    most = max(samples)
    usual = [first * 10**power for power in range(len(str(most))) for first in (1, 2, 5)]
    return sorted({*samples, *(count for count in usual if count <= most)})


def importance_curve(estimates: Mapping[str, Importance]) -> list[dict[str, Any]]:
    """Return the mean importance-weighted bound by samples, for the plot.

    Args:
        estimates: By what the samples were drawn from.
    """
    return [
        {"posterior": kind, "samples": s, "log_p": float(v)}
        for kind, found in estimates.items()
        for s, v in zip(found.samples, found.mean, strict=True)
    ]


def importance_rows(
    found: Importance, posterior: str, samples: Sequence[int]
) -> list[dict[str, Any]]:
    """Return a row for each number of samples; diagnostics are of the largest.

    Args:
        found: The estimates.
        posterior: What the samples were drawn from.
        samples: The numbers that were asked for.
    """
    rows: list[dict[str, Any]] = []
    k_hat = found.k_hat[~found.k_hat.isnan()]
    for i, count in enumerate(found.samples):
        if count not in samples:
            continue
        row: dict[str, Any] = {
            "posterior": posterior,
            "samples": count,
            "nll": nats(-found.log_p[i]),
            "error_of_draws": float(found.mean_se[i]),
        }
        if i + 1 == len(found.samples):
            row["ess_median"] = float(found.ess.median())
            row["ess_least"] = float(found.ess.min())
            if len(k_hat):
                row["k_hat_median"] = float(k_hat.median())
                row["unreliable"] = float((k_hat > _UNRELIABLE).double().mean() * 100)
        rows.append(row)
    return rows


def latent_figures(bench: VaeBench, q: Posterior, seed: int) -> dict[str, Any]:
    """Return which latents are used, and what the divergence from the prior is spent on.

    The latter is left out of one datum, and of a posterior whose density is known at its own
    draws alone: those of one datum are compared with the posteriors of all.
    """
    alone = len(q) < 2  # one datum varies in nothing, and is told apart from nothing
    usage = latent_usage(q.rows(torch.tensor([0, 0])) if alone else q)
    found: dict[str, Any] = {
        "count": bench.auto.latent,
        "active": None if alone else int(usage.active.sum()),
        "kl": usage.kl.tolist(),
        "activity": [None] * bench.auto.latent if alone else usage.activity.tolist(),
    }
    if alone or not q.has_density:
        return found
    few = q.rows(slice(0, _MOST_SPLIT))
    shape = (_SPLIT_DRAWS, len(few), few.noise_width)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(bench.auto.device)
    log_prior = None if bench.model.standard_prior else bench.model.log_prior(few.sample(noise)[0])
    split = split_divergence(few, noise, log_prior)
    found["split"] = {
        "n": len(few),
        "mutual_information": split.mutual_information,
        "marginal_kl": split.marginal_kl,
        "se": split.se,
    }
    return found
