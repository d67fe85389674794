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
not rise at every step. Hence each iterate is judged, with the same random numbers for all, and
each datum keeps its best.

References:
    Hjelm et al., Iterative refinement of the approximate posterior for directed belief networks
    (2016), sec. 3.2, eqs. 7-9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from bnnkit.errors import UsageError, did_you_mean
from bnnkit.methods.vae.belief import (
    BeliefModel,
    bernoulli_kl,
    bound,
    draw,
    log_weights,
    straight_through,
    uniforms,
)

__all__ = [
    "METHODS",
    "RATES",
    "BinaryRefinement",
    "Iterate",
    "RefinedBinary",
    "iterates",
    "refine_binary",
]

RATES = {"centre": 0.1, "straight-through": 0.1, "ais": 0.1}
"""Default rates: Adam's in units of a logit, and the damping factor of `ais`."""

METHODS = tuple(RATES)

_EDGE = 1e-6
"""Means are kept so far from 0 and 1, lest a latent be fixed for ever."""


@dataclass(frozen=True)
class BinaryRefinement:
    """How a Bernoulli posterior is refined.

    Args:
        method: One of `METHODS`.
        steps: K.
        samples: Draws of h of each datum in a step; `centre` needs none.
        rate: Adam's rate, or the damping factor gamma of `ais` in (0, 1]; None takes `RATES`.
        judged: Draws of each datum by which iterates are compared; the same for all of them.
        reported: Fresh draws of each datum for the bounds that are returned.
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
        if self.method not in RATES:
            raise UsageError(
                what, repr(self.method), "no such method", did_you_mean(self.method, METHODS)
            )
        for name in ("steps", "samples", "judged", "reported", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(
                    what, f"{name} = {getattr(self, name)}", "it must be 1 or more", "Use 20."
                )
        if not self.step_size > 0 or (self.method == "ais" and self.step_size > 1):
            raise UsageError(
                what, f"a rate of {self.rate}", "it must be above 0, and at most 1 for 'ais'",
                f"Use {RATES[self.method]}.",
            )  # fmt: skip

    @property
    def step_size(self) -> float:
        """The rate, given or by default."""
        return RATES[self.method] if self.rate is None else self.rate


@dataclass(frozen=True, eq=False)
class RefinedBinary:
    """Refined posteriors of n data with L latents.

    Args:
        logits: Of the refined q(h | x), `[n, L]`.
        elbo_before: Bound of the amortised posterior in nats, `[n]`.
        elbo_after: Of the refined one, on the same fresh draws, `[n]`; never lower.
        curves: Bound before the first step and after each, on the draws that judge, `[n, K + 1]`.
        improved: Data whose posterior changed for the better, `[n]` bool.
        diverged: Data of which a step was not finite and was left out, `[n]` bool.
    """

    logits: Tensor
    elbo_before: Tensor
    elbo_after: Tensor
    curves: Tensor
    improved: Tensor
    diverged: Tensor

    @property
    def curve(self) -> Tensor:
        """Mean of `curves` over the data that did not diverge, `[K + 1]`."""
        return self.curves[~self.diverged].mean(0)


class Iterate(NamedTuple):
    """One step of a refinement: logits `[n, L]`, and which data took it, `[n]` bool."""

    logits: Tensor
    finite: Tensor


def iterates(
    model: BeliefModel,
    x: Tensor,
    logits: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
) -> Iterator[Iterate]:
    """Yield the K iterates of a refinement, unjudged, as training takes them.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        logits: Of the posterior to start from, `[n, L]`.
        config: Method, steps, samples and rate.
        generator: Source of the draws, on the device of the data.
    """
    start = logits.detach()
    if config.method == "ais":
        return _adaptive(model, x, start, config, generator)
    return _ascent(model, x, start, config, generator)


def _adaptive(
    model: BeliefModel,
    x: Tensor,
    logits: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
) -> Iterator[Iterate]:
    """Move the means towards the weighted mean of their samples (eq. 9)."""
    mean = torch.sigmoid(logits)
    for _ in range(config.steps):
        with torch.no_grad():
            h = draw(logits, config.samples, generator)
            weight = log_weights(model, x, logits, h).softmax(0)
            target = torch.einsum("sn,snl->nl", weight, h)
            moved = torch.lerp(mean, target, config.step_size).clamp(_EDGE, 1 - _EDGE)
            finite = moved.isfinite().all(1)
            mean = torch.where(finite[:, None], moved, mean)
            logits = mean.logit()
        yield Iterate(logits, finite)


def _ascent(
    model: BeliefModel,
    x: Tensor,
    logits: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
) -> Iterator[Iterate]:
    """Ascend an estimate of the bound by Adam, in which data do not meet one another."""
    moving = logits.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([moving], lr=config.step_size)
    edge = torch.logit(torch.tensor(1 - _EDGE)).item()
    for _ in range(config.steps):
        with torch.enable_grad():
            value = _surrogate(model, x, moving, config, generator)
            (gradient,) = torch.autograd.grad(-value.sum(), moving)
        finite = gradient.isfinite().all(1) & value.isfinite()
        moving.grad = torch.where(finite[:, None], gradient, 0.0)
        optimiser.step()
        with torch.no_grad():
            moving.clamp_(-edge, edge)
        yield Iterate(moving.detach().clone(), finite)


def _surrogate(
    model: BeliefModel,
    x: Tensor,
    logits: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
) -> Tensor:
    """Return what is ascended, `[n]`: the bound at the mean (eq. 7), or at samples (eq. 8)."""
    if config.method == "centre":
        at_mean = model.log_likelihood(x, torch.sigmoid(logits))
        return at_mean - bernoulli_kl(logits, model.prior_logits())
    noise = uniforms(logits, config.samples, generator)
    return bound(model, x, logits, straight_through(logits, noise))


def refine_binary(
    model: BeliefModel,
    x: Tensor,
    config: BinaryRefinement,
    generator: torch.Generator,
) -> RefinedBinary:
    """Refine q(h | x) of each datum; keep the best of all its iterates and of the amortised one.

    The best is chosen by draws that are common to all iterates. The bounds that are returned are
    of fresh draws, common to both; where the chosen one turns out lower there, the amortised one
    is kept, which leans to the higher by at most the noise of the difference.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        config: How.
        generator: Source of the draws, on the device of the data.
    """
    parts = [_refine(model, part, config, generator) for part in torch.split(x, config.batch)]
    joined = {
        f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(RefinedBinary)
    }
    return RefinedBinary(**joined)


def _refine(
    model: BeliefModel, x: Tensor, config: BinaryRefinement, generator: torch.Generator
) -> RefinedBinary:
    """Refine one batch."""
    with torch.no_grad():
        first = model.encode(x)
    common = uniforms(first, config.judged, generator)
    best, best_value = first, _judge(model, x, first, common)
    curves, diverged = [best_value], torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for logits, finite in iterates(model, x, first, config, generator):
        value = _judge(model, x, logits, common)
        better = value > best_value  # False where it is not a number
        best = torch.where(better[:, None], logits, best)
        best_value = torch.where(better, value, best_value)
        diverged |= ~finite
        curves.append(value)
    fresh = uniforms(first, config.reported, generator)
    before, after = (_judge(model, x, logits, fresh) for logits in (first, best))
    improved = after > before
    return RefinedBinary(
        logits=torch.where(improved[:, None], best, first),
        elbo_before=before,
        elbo_after=torch.where(improved, after, before),
        curves=torch.stack(curves, 1),
        improved=improved,
        diverged=diverged,
    )


@torch.no_grad()
def _judge(model: BeliefModel, x: Tensor, logits: Tensor, noise: Tensor) -> Tensor:
    """Return the bound on given uniform numbers `[s, n, L]`, float64 `[n]`."""
    h = (noise < torch.sigmoid(logits)).to(logits)
    return bound(model, x, logits, h).double()
