"""Training of chains and flows on an energy, with or without biased noise in its gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.annealing import alphas
from bnnkit.errors import TrainingError
from bnnkit.methods.annealed.energies import Energy
from bnnkit.methods.annealed.objectives import objective
from bnnkit.methods.annealed.samplers import Chain, Flow, Sampler
from bnnkit.spec.avo import CHAINS, AvoToyConfig

__all__ = ["Trained", "biased_noise", "fit"]

_CLIP = 10.0
_POINTS = 50  # of the curve
_BIASED = 0.5  # share of the training in which the noise has a mean


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained approximation.

    Args:
        sampler: What draws.
        curve: `{step, objective}`, means over the steps since the row before, in nats.
        seconds: Processor time of the training.
    """

    sampler: Sampler
    curve: list[dict[str, float]]
    seconds: float


def biased_noise(bias: float, done: float, generator: torch.Generator) -> Tensor:
    r"""Return noise in the gradient of log f: :math:`\xi \sim N(b_u, I)`, `[2]`.

    The mean :math:`b_u = b\,(1, 0) \max(0, 1 - 2u)` fades over the first half of the training, so
    that what is learned there is a target leaning to one side.

    Args:
        bias: b, in nats per unit of length.
        done: u, share of the training that is done.
        generator: Source of the noise.
    """
    mean = torch.tensor([bias * max(0.0, 1 - done / _BIASED), 0.0])
    return mean + torch.randn(2, generator=generator)


def fit(
    energy: Energy,
    method: str,
    config: AvoToyConfig,
    *,
    bias: float = 0.0,
    told: Callable[[dict[str, float]], None] | None = None,
) -> Trained:
    """Train one method on an energy.

    Args:
        energy: The target.
        method: One of `bnnkit.spec.avo.METHODS`.
        config: Sizes, steps, rate and seed.
        bias: Mean of the noise in the gradient of the energy; 0 for no noise.
        told: Told the figures of each step.

    Raises:
        TrainingError: The objective is no number.
        UsageError: A flow without zuko.
    """
    generator = torch.Generator().manual_seed(config.seed)
    sampler: Sampler
    if method in CHAINS:
        sampler = Chain(config.spread, config.transitions, config.hidden, generator)
    else:
        sampler = Flow(config.spread, method, config.seed)
    path = alphas(config.transitions, config.schedule)
    parameters = list(sampler.parameters())
    adam = torch.optim.Adam(parameters, lr=config.lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, config.steps))
    curve: list[dict[str, float]] = []
    recent: list[float] = []
    begun = time.process_time()
    for i in range(config.steps):
        done = i / config.steps
        log_f = energy.log_density
        if bias:
            log_f = _noisy(energy, biased_noise(bias, done, generator))
        gain = objective(
            method, sampler, log_f, count=config.batch_size, done=done, warm=config.warm,
            alpha=path, generator=generator,
        ).mean()  # fmt: skip
        if not bool(gain.isfinite()):
            raise _diverged(energy, method, i + 1, float(gain))
        adam.zero_grad(set_to_none=True)
        torch.autograd.backward(-gain)
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        adam.step()
        rate.step()
        recent.append(float(gain.detach()))
        if told is not None:
            told({"objective": recent[-1]})
        if (i + 1) % max(1, config.steps // _POINTS) == 0 or i + 1 == config.steps:
            curve.append({"step": i + 1, "objective": math.fsum(recent) / len(recent)})
            recent = []
    return Trained(sampler.eval(), curve, time.process_time() - begun)


def _noisy(energy: Energy, noise: Tensor) -> Callable[[Tensor], Tensor]:
    """Return log f(z) + ξᵀz, whose gradient is that of log f with noise."""
    return lambda z: energy.log_density(z) + z @ noise


def _diverged(energy: Energy, method: str, step: int, value: float) -> TrainingError:
    return TrainingError(
        f"Training {method} on energy {energy.name!r}",
        f"an objective of {value:g} at step {step}",
        "it has no direction from there",
        "Use a smaller --lr.",
    )
