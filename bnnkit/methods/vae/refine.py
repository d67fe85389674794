r"""Refinement of the posteriors of single data, starting from what a trained encoder says.

What it says is the model's own q(z | x): the encoder's Gaussian, or a trained one with
correlations, from which a family starts as far as it can hold them. "The encoder's posterior"
below is either.

Four sets of draws are kept apart, each with numbers of the datum's own:

1. *steps*: K times S fresh draws that move the posterior;
2. *judging*: a fixed set under which iterates after the first step, half of them
   and all are compared; the best is kept;
3. *deciding*: one more set, under which the best iterate is compared with the encoder's
   posterior, and further ones for data where that does not make it clear. Where the gain is not
   above half its standard error over draws, or not a number, the encoder's stays. On a set that
   chose the iterate the winner would look better than it is;
4. *reporting*: fresh draws, the same before and after. A datum that shows a loss under these too
   keeps the encoder's posterior, so that no refined bound is reported below the old one. This is
   all that is chosen by them: it lifts the mean gain by no more than the losses it takes out.

What is not a number spreads to all later iterates of its datum and to no other datum: these lose
every comparison, so that the datum keeps the best iterate before.

References:
    Hjelm, Cho, Chung, Salakhutdinov, Calhoun and Jojic, Iterative refinement of the approximate
    posterior for directed belief networks (2016), algorithm 1; Kim, Wiseman, Miller, Sontag and
    Rush, Semi-amortized variational autoencoders (2018).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.deciding import gains
from bnnkit.methods.vae.families import as_diagonal, fall_back, start
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.noise import DatumNoise, balanced, datum_seeds
from bnnkit.methods.vae.optimisers import bound_samples, make_stepper
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["Refined", "join", "refine", "settle"]

_SURE = 0.5
"""Standard errors by which a datum must have gained: more would give up true gains."""
_ROUNDING = 1e-6
"""Share of the bound that rounding may bring."""


@dataclass(frozen=True, eq=False)
class Refined:
    """Posteriors of n data after refinement, and what it brought.

    Args:
        posterior: The refined ones; the encoder's where `improved` is false.
        amortised: The encoder's.
        elbo_before: Evidence lower bound of the encoder's posterior, in nats `[n]`.
        elbo_after: That of `posterior` `[n]`, under the same fresh draws.
        se_before: Standard error of `elbo_before` over draws `[n]`.
        se_after: Likewise of `elbo_after`.
        se_gain: Likewise of their difference, paired.
        decided_gain: Gain under the draws that decided `[n]`; 0 where the encoder's stayed.
        improved: Which data are refined `[n]`.
        curves: Bound before the first step and after each, under the draws of the next step
            `[n, steps + 1]`; a natural optimiser sets the spread before the first.
        cpu_seconds: CPU time of refinement, judging and deciding.
        report_cpu_seconds: CPU time of the bounds that are reported.
    """

    posterior: Posterior
    amortised: Posterior
    elbo_before: Tensor
    elbo_after: Tensor
    se_before: Tensor
    se_after: Tensor
    se_gain: Tensor
    decided_gain: Tensor
    improved: Tensor
    curves: Tensor
    cpu_seconds: float
    report_cpu_seconds: float

    @property
    def diverged(self) -> Tensor:
        """Which data met a value that is not a number `[n]`."""
        return ~self.curves.isfinite().all(1)

    @property
    def curve(self) -> Tensor:
        """Mean of `curves` over the data that did not diverge `[steps + 1]`."""
        return self.curves[~self.diverged].mean(0)


def refine(
    model: LatentModel,
    x: Tensor,
    config: RefineConfig,
    *,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Refine the posterior of each datum; the weights of the model stay as they are.

    Args:
        model: The VAE.
        x: Data `[n, D]`, n at least 1.
        config: How.
        generator: Source of one seed per datum: no result depends on the batch size.
        progress: Called with the number of data done, and of all.

    Raises:
        UsageError: The family does not fit the latents.
    """
    seeds = datum_seeds(len(x), generator)
    parts: list[Refined] = []
    for i in range(0, len(x), config.batch_size):
        rows = slice(i, i + config.batch_size)
        parts.append(_refine_batch(model, x[rows], config, seeds[rows]))
        if progress is not None:
            progress(min(i + config.batch_size, len(x)), len(x))
    return join(parts)


@torch.no_grad()
def _refine_batch(model: LatentModel, x: Tensor, config: RefineConfig, seeds: Tensor) -> Refined:
    began = time.process_time()
    amortised = model.amortised(x)
    noise = DatumNoise(seeds, model.latent, amortised.centre())
    best, curves = _ascend(model, x, amortised, config, noise)
    draws = (config.judged, config.reported)
    return settle(model, x, (amortised, best), noise, draws, curves=curves, began=began)


def settle(
    model: LatentModel,
    x: Tensor,
    pair: tuple[Posterior, Posterior],
    noise: DatumNoise,
    draws: tuple[int, int],
    *,
    curves: Tensor,
    began: float,
) -> Refined:
    """Decide between the best iterate and the encoder's posterior, and measure: draws 3 and 4.

    Args:
        model: The autoencoder.
        x: Data `[n, D]`.
        pair: The encoder's posterior, and the best iterate.
        noise: The data's own streams.
        draws: Numbers of draws that decide at first, and that report.
        curves: Bounds by step, `[n, steps + 1]`.
        began: CPU time at which the refinement began.
    """
    amortised, best = pair
    gain, error, bound = gains(model, x, pair, noise, draws[0])
    improved = gain > _SURE * error + _ROUNDING * bound.abs()  # false where it is not a number
    refined = time.process_time()
    report = noise.draw(draws[1])
    before = bound_samples(model, x, amortised, report)
    after = bound_samples(model, x, best, report)
    improved = improved & (after.mean(0) >= before.mean(0))
    after = torch.where(improved, after, before)
    posterior = fall_back(best, amortised, improved)
    return Refined(
        posterior=posterior,
        amortised=amortised,
        elbo_before=before.mean(0),
        elbo_after=after.mean(0),
        se_before=_standard_error(before),
        se_after=_standard_error(after),
        se_gain=_standard_error(after - before),
        decided_gain=torch.where(improved, gain, torch.zeros_like(gain)),
        improved=improved,
        curves=curves,
        cpu_seconds=refined - began,
        report_cpu_seconds=time.process_time() - refined,
    )


def _ascend(
    model: LatentModel, x: Tensor, amortised: Posterior, config: RefineConfig, noise: DatumNoise
) -> tuple[Posterior, Tensor]:
    """Return the best iterate of each datum, and the bound by step `[n, steps + 1]`."""
    best = start(config.family, amortised)
    fixed = balanced(noise.draw(config.judged))
    best_bound = _bound(model, x, best, fixed)
    plain = as_diagonal(amortised)
    stepper = make_stepper(config.method, model, x, best, (plain.mean, plain.log_sigma))
    curves, judged = [], _judged(config.steps)
    for k in range(config.steps):
        rate = config.rate * (1 - k / config.steps)
        curves.append(stepper.step(balanced(noise.draw(config.draws)), rate))
        if k + 1 in judged:
            bound = _bound(model, x, stepper.posterior, fixed)
            better = bound > best_bound  # false where it is not a number
            best = stepper.posterior.where(better, best).detach()
            best_bound = torch.where(better, bound, best_bound)
    curves.append(_bound(model, x, stepper.posterior, fixed))
    return best, torch.stack(curves, 1)


def _judged(steps: int) -> set[int]:
    """Return the steps after which iterates are compared."""
    return {1, steps // 2, steps}


def _bound(model: LatentModel, x: Tensor, q: Posterior, noise: Tensor) -> Tensor:
    return bound_samples(model, x, q, noise).mean(0)


def _standard_error(terms: Tensor) -> Tensor:
    """Return the standard error of means over draws, `[s, n]` to `[n]`."""
    return terms.std(0) / math.sqrt(len(terms))


def join(parts: list[Refined]) -> Refined:
    """Return the results of batches as one, in their order."""
    first, rest = parts[0], parts[1:]
    merged: dict[str, Any] = {}
    for name in (f.name for f in fields(Refined)):
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], Posterior):
            merged[name] = getattr(first, name).join([getattr(part, name) for part in rest])
        else:
            merged[name] = sum(values) if isinstance(values[0], float) else torch.cat(values)
    return Refined(**merged)
