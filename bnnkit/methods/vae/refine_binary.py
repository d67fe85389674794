r"""Refinement of a Bernoulli posterior, datum by datum: q(h | x) of a belief net made better.

Starting from the recognition net's :math:`\mu_0 = \sigma(l_0)`, for k = 1 ... K:

==================  ===========================================================================
method              step
==================  ===========================================================================
`centre`            ascend log p(x | h = mu) - KL(q || p(h)): the mean is decoded (eq. 7)
`straight-through`  ascend the bound at samples h, with dh/dmu = 1 (eq. 8)
`ais`               :math:`\mu \leftarrow (1-\gamma)\mu + \gamma \sum_s \tilde w^{(s)} h^{(s)}`
                    with normalised importance weights (eq. 9, damped)
==================  ===========================================================================

The first two approach the factorised q of the highest bound, by Adam on the logits. The third
approaches the marginals of the true posterior, which minimise KL(p(h | x) || q): its bound need
not rise at every step. Hence every iterate is judged, with the same random numbers for all, and
each datum goes on with its best. Whether that replaces the encoder's posterior is decided and
reported as of continuous latents (`refine`): by the same rule, on draws of their own.

References:
    Hjelm et al., Iterative refinement of the approximate posterior for directed belief networks
    (2016), sec. 3.2, eqs. 7-9.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.methods.vae.belief import (
    BeliefModel,
    bernoulli_kl,
    bound,
    log_weights,
    straight_through,
)
from bnnkit.methods.vae.bernoulli import Bernoulli
from bnnkit.methods.vae.latent_model import LatentModel, of_belief
from bnnkit.methods.vae.noise import DatumNoise, balanced, datum_seeds
from bnnkit.methods.vae.optimisers import bound_samples
from bnnkit.methods.vae.refine import Refined, join, settle
from bnnkit.spec.vae_refine import BINARY_OPTIMISERS, RATES

__all__ = [
    "METHODS",
    "BinaryRefinement",
    "Iterate",
    "Uniforms",
    "importance_start",
    "importance_step",
    "iterates",
    "refine_binary",
]

METHODS = BINARY_OPTIMISERS

Uniforms = Callable[[int], Tensor]
"""Gives so many uniform numbers of each latent, `[s, n, L]`, new ones at every call."""

_EDGE = 1e-6
"""Means are kept so far from 0 and 1, lest a latent be fixed for ever."""


@dataclass(frozen=True)
class BinaryRefinement:
    """How a Bernoulli posterior is refined.

    Args:
        method: One of `METHODS`.
        steps: K.
        samples: Draws of h of each datum in a step; `centre` needs none.
        rate: Adam's rate in units of a logit, or the damping factor gamma of `ais` in (0, 1];
            None takes `spec.vae_refine.RATES`.
        judged: Draws of each datum by which iterates are compared, the same for all of them.
        reported: Fresh draws of each datum for the bounds that are returned; as many before them
            decide, since one draw of a bound has more noise than of continuous latents.
        batch: Data that are refined at once.

    Raises:
        UsageError: A value out of its range.
    """

    method: str = "straight-through"
    steps: int = 20
    samples: int = 20
    rate: float | None = None
    judged: int = 20
    reported: int = 100
    batch: int = 100

    def __post_init__(self) -> None:
        what = "Refining a posterior of binary latents"
        if self.method not in METHODS:
            raise UsageError(
                what, repr(self.method), "no such method", did_you_mean(self.method, METHODS)
            )
        least = {"steps": 1, "samples": 1, "judged": 2, "reported": 2, "batch": 1}
        for name, fewest in least.items():
            if (value := getattr(self, name)) < fewest:
                why = f"it must be {fewest} or more"
                raise UsageError(what, f"{name} = {value}", why, "Use 20.")
        if not self.step_size > 0 or (self.method == "ais" and self.step_size > 1):
            raise UsageError(
                what, f"a rate of {self.rate}", "it must be above 0, and at most 1 for 'ais'",
                f"Use {RATES[self.method]}.",
            )  # fmt: skip

    @property
    def step_size(self) -> float:
        """The rate, given or by default."""
        return RATES[self.method] if self.rate is None else self.rate


class Iterate(NamedTuple):
    """One step of a refinement: logits `[n, L]`, and which data took it, `[n]` bool."""

    logits: Tensor
    finite: Tensor


def iterates(
    model: BeliefModel, x: Tensor, logits: Tensor, config: BinaryRefinement, noise: Uniforms
) -> Iterator[Iterate]:
    """Yield the K iterates of a refinement, unjudged, as training takes them.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        logits: Of the posterior to start from, `[n, L]`.
        config: Method, steps, samples and rate.
        noise: Source of the draws.
    """
    start = logits.detach()
    if config.method == "ais":
        return _adaptive(model, x, start, config, noise)
    return _ascent(model, x, start, config, noise)


def importance_start(logits: Tensor) -> Tensor:
    """Return the means from which `importance_step` goes, strictly between 0 and 1, `[n, L]`."""
    return torch.sigmoid(logits).clamp(_EDGE, 1 - _EDGE)


def importance_step(
    model: BeliefModel, x: Tensor, mean: Tensor, noise: Tensor, rate: float | Tensor
) -> Tensor:
    """Move means towards the weighted mean of their samples (eq. 9, damped).

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        mean: Of q, strictly between 0 and 1, `[n, L]`.
        noise: Uniform numbers `[s, n, L]`.
        rate: The damping factor gamma in (0, 1].

    Returns:
        The next means `[n, L]`; NaN where weights are not numbers.
    """
    h = (noise < mean).to(mean)
    weight = log_weights(model, x, mean.logit(), h).softmax(0)
    target = torch.einsum("sn,snl->nl", weight, h)
    return (mean + rate * (target - mean)).clamp(_EDGE, 1 - _EDGE)


def _adaptive(
    model: BeliefModel, x: Tensor, logits: Tensor, config: BinaryRefinement, noise: Uniforms
) -> Iterator[Iterate]:
    """Take the damped steps of eq. 9."""
    mean = importance_start(logits)
    for _ in range(config.steps):
        with torch.no_grad():
            moved = importance_step(model, x, mean, noise(config.samples), config.step_size)
            finite = moved.isfinite().all(1)
            mean = torch.where(finite[:, None], moved, mean)
        yield Iterate(mean.logit(), finite)


def _ascent(
    model: BeliefModel, x: Tensor, logits: Tensor, config: BinaryRefinement, noise: Uniforms
) -> Iterator[Iterate]:
    """Ascend an estimate of the bound by Adam, in which data do not meet one another."""
    moving = logits.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([moving], lr=config.step_size)
    edge = torch.logit(torch.tensor(1 - _EDGE)).item()
    for _ in range(config.steps):
        with torch.enable_grad():
            value = _surrogate(model, x, moving, config, noise)
            (gradient,) = torch.autograd.grad(-value.sum(), moving)
        finite = gradient.isfinite().all(1) & value.isfinite()
        moving.grad = torch.where(finite[:, None], gradient, 0.0)
        optimiser.step()
        with torch.no_grad():
            moving.clamp_(-edge, edge)
        yield Iterate(moving.detach().clone(), finite)


def _surrogate(
    model: BeliefModel, x: Tensor, logits: Tensor, config: BinaryRefinement, noise: Uniforms
) -> Tensor:
    """Return what is ascended, `[n]`: the bound at the mean (eq. 7), or at samples (eq. 8)."""
    if config.method == "centre":
        at_mean = model.log_likelihood(x, torch.sigmoid(logits))
        return at_mean - bernoulli_kl(logits, model.prior_logits())
    return bound(model, x, logits, straight_through(logits, noise(config.samples)))


def refine_binary(
    model: BeliefModel,
    x: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Refined:
    """Refine q(h | x) of each datum; the weights of the model stay as they are.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`, n at least 1.
        config: How.
        generator: Source of one seed per datum: no result depends on the batch size.
        progress: Called with the number of data done, and of all.

    Returns:
        Posteriors of the family `Bernoulli`.
    """
    seeds, parts = datum_seeds(len(x), generator), []
    for i in range(0, len(x), config.batch):
        rows = slice(i, i + config.batch)
        parts.append(_refine(model, x[rows], config, seeds[rows]))
        if progress is not None:
            progress(min(i + config.batch, len(x)), len(x))
    return join(parts)


@torch.no_grad()
def _refine(model: BeliefModel, x: Tensor, config: BinaryRefinement, seeds: Tensor) -> Refined:
    """Refine one batch."""
    began = time.process_time()
    first = model.encode(x)
    judge = of_belief(model, first.shape[-1])
    amortised = Bernoulli(first, model.prior_logits())
    normal = DatumNoise(seeds, judge.latent, first)
    fixed = balanced(normal.draw(config.judged))

    def uniform(samples: int) -> Tensor:
        u: Tensor = torch.special.ndtr(normal.draw(samples))
        return u

    best, best_value = first, _bound(judge, x, amortised, fixed)
    curves = [best_value]
    for logits, finite in iterates(model, x, first, config, uniform):
        value = _bound(judge, x, amortised.replace([logits]), fixed)
        better = finite & (value > best_value)  # false where it is not a number
        best = torch.where(better[:, None], logits, best)
        best_value = torch.where(better, value, best_value)
        curves.append(torch.where(finite, value, torch.nan))
    pair = (amortised, amortised.replace([best]))
    draws = (config.reported, config.reported)
    return settle(judge, x, pair, normal, draws, curves=torch.stack(curves, 1), began=began)


def _bound(model: LatentModel, x: Tensor, q: Bernoulli, noise: Tensor) -> Tensor:
    """Return the bound on given normal numbers `[s, n, L]`, `[n]`."""
    return bound_samples(model, x, q, noise).mean(0)
