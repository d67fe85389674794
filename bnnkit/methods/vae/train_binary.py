r"""Losses that train a belief net: wake-sleep, refinement inside training, straight-through.

==================  =======================================  ===================================
method              decoder and prior, theta                 recognition net, phi
==================  =======================================  ===================================
`wake-sleep`        -log p(x, h), h ~ q(h | x)               -log q(h | x), (h, x) ~ p (dreams)
`avi`               -sum_s w_s log p(x, h_s), h_s ~ q~       KL(q~ || q_phi) (eq. 6)
`straight-through`  the negative bound                       the same, with dh/dmu = 1 (eq. 8)
==================  =======================================  ===================================

q~ is the refined posterior, held fixed; w_s are its normalised importance weights, with which
the step on theta follows the gradient of the importance-sampled log p(x).

References:
    Hjelm et al., Iterative refinement of the approximate posterior for directed belief networks
    (2016), algorithm 1, eqs. 5-9; Hinton et al., The wake-sleep algorithm for unsupervised neural
    networks (1995); Bornschein and Bengio, Reweighted wake-sleep (2015), eq. 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bnnkit.bayes.importance import effective_sample_size
from bnnkit.errors import UsageError, did_you_mean
from bnnkit.methods.vae.belief import (
    BeliefModel,
    bernoulli_kl,
    bound,
    draw,
    log_bernoulli,
    straight_through,
    uniforms,
)
from bnnkit.methods.vae.refine_binary import BinaryRefinement, iterates

__all__ = [
    "LOSSES",
    "BinaryTraining",
    "avi_loss",
    "straight_through_loss",
    "training_loss",
    "wake_sleep_loss",
]


@dataclass(frozen=True)
class BinaryTraining:
    """How a belief net is trained.

    Args:
        method: A key of `LOSSES`.
        samples: Draws of h of each datum for the step on the decoder.
        refinement: Of `avi`: how its posterior is refined.

    Raises:
        UsageError: A value out of its range.
    """

    method: str = "avi"
    samples: int = 20
    refinement: BinaryRefinement = field(default_factory=lambda: BinaryRefinement("ais"))

    def __post_init__(self) -> None:
        if self.method not in LOSSES:
            raise UsageError(
                "Training a belief net", repr(self.method), "no such method",
                did_you_mean(self.method, LOSSES),
            )  # fmt: skip
        if self.samples < 1:
            raise UsageError(
                "Training a belief net", f"{self.samples} samples", "it needs one or more",
                "Use 20.",
            )  # fmt: skip


def wake_sleep_loss(
    model: BeliefModel, x: Tensor, generator: torch.Generator, config: BinaryTraining
) -> dict[str, Tensor]:
    """Return the losses of both phases: the decoder awake, the recognition net on as many dreams.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        generator: Source of the draws, on the device of the data.
        config: Number of samples.

    Returns:
        `loss`, to minimise; `bound`, of the posterior that the decoder learned from; `sleep`.
        Means over the batch in nats, scalars.
    """
    with torch.no_grad():
        logits = model.encode(x)
        h = draw(logits, config.samples, generator)
        dreamt = draw(model.prior_logits().expand_as(logits), 1, generator)[0]
        dream = draw(model.decode(dreamt), 1, generator)[0]
    log_joint = model.log_joint(x, h)
    sleep = -log_bernoulli(dreamt, model.encode(dream)).mean()
    value = (log_joint.detach() - log_bernoulli(h, logits)).mean()
    return {"loss": sleep - log_joint.mean(), "bound": value, "sleep": sleep.detach()}


def avi_loss(
    model: BeliefModel, x: Tensor, generator: torch.Generator, config: BinaryTraining
) -> dict[str, Tensor]:
    """Return the losses on a refined posterior: weighted samples for theta, a divergence for phi.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        generator: Source of the draws, on the device of the data.
        config: Number of samples, and the refinement.

    Returns:
        `loss`, to minimise; `bound`, of the refined posterior; `kl`, of the recognition net from
        it; `ess`, the effective number of the samples. Means over the batch, scalars.
    """
    amortised = model.encode(x)
    start = amortised.detach()

    def noise(samples: int) -> Tensor:
        return uniforms(start, samples, generator)

    *_, (refined, _) = iterates(model, x, start, config.refinement, noise)
    with torch.no_grad():
        h = draw(refined, config.samples, generator)
        log_q = log_bernoulli(h, refined)
    log_joint = model.log_joint(x, h)
    log_w = log_joint.detach() - log_q
    weight = log_w.softmax(0)
    kl = bernoulli_kl(refined, amortised).mean()
    return {
        "loss": kl - (weight * log_joint).sum(0).mean(),
        "bound": log_w.mean(),
        "kl": kl.detach(),
        "ess": effective_sample_size(log_w).mean(),
    }


def straight_through_loss(
    model: BeliefModel, x: Tensor, generator: torch.Generator, config: BinaryTraining
) -> dict[str, Tensor]:
    """Return the negative bound, differentiable through its samples.

    Args:
        model: The model.
        x: Zeros and ones `[n, D]`.
        generator: Source of the draws, on the device of the data.
        config: Number of samples.

    Returns:
        `loss`, to minimise, and `bound`. Means over the batch in nats, scalars.
    """
    logits = model.encode(x)
    h = straight_through(logits, uniforms(logits, config.samples, generator))
    value = bound(model, x, logits, h).mean()
    return {"loss": -value, "bound": value.detach()}


LOSSES: dict[
    str,
    Callable[[BeliefModel, Tensor, torch.Generator, BinaryTraining], dict[str, Tensor]],
] = {
    "wake-sleep": wake_sleep_loss,
    "avi": avi_loss,
    "straight-through": straight_through_loss,
}
"""What trains a belief net, by name."""


def training_loss(
    model: BeliefModel, x: Tensor, generator: torch.Generator, config: BinaryTraining
) -> dict[str, Tensor]:
    """Return the loss of the configured method; see the functions of `LOSSES`."""
    return LOSSES[config.method](model, x, generator, config)
