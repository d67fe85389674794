r"""One step's losses of an autoencoder in training, each with the parameters that it reaches.

All are means over the batch of the negative objective of a datum. Refinement inside the training
(GBVI) moves each datum's posterior q~ first, with the weights fixed; the decoder then maximises
E_q~ log p(x, z), and the encoder minimises KL(q~ || q). With full variational Bayes the
divergence of the decoder's weights is spread over the data: KL(q(θ)) / N is added for each.

References:
    Hjelm et al., Iterative refinement of the approximate posterior for directed belief networks
    (2016), algorithm 1 and eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnnkit.bayes.posteriors.diagonal import Diagonal
from bnnkit.methods.vae.amortised import AmortisedPosterior, terms_of
from bnnkit.methods.vae.annealed import annealed_terms, start_bound
from bnnkit.methods.vae.encoding import Encoded
from bnnkit.methods.vae.full_bayes import DecoderPosterior
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.objectives import Terms, elbo, iwae, renyi
from bnnkit.methods.vae.refine import refine
from bnnkit.spec.vae_fit import VaeFitConfig
from bnnkit.spec.vae_refine import RefineConfig

__all__ = ["Loss", "Trainee", "bound_of", "fit_losses", "kl_between"]

_REFINE_DRAWS = 2
"""Draws of a posterior in one step of its refinement, and where iterates are compared."""


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained.

    Args:
        module: The owner's module.
        model: What it does.
        encode: Its encoder, with features.
        posterior: The family on top of the encoder's Gaussian.
        weights: The posterior of the decoder's weights, of full variational Bayes.
        data: Number of training data.
    """

    module: nn.Module
    model: LatentModel
    encode: Callable[[Tensor], Encoded]
    posterior: AmortisedPosterior
    weights: DecoderPosterior | None = None
    data: int = 1

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.module.parameters()).device


class Loss(NamedTuple):
    """A number to descend.

    Args:
        value: In nats a datum.
        reaches: Which parameters take its gradient: `all`, or `encoder`, `decoder`, `head`.
    """

    value: Tensor
    reaches: str = "all"


def fit_losses(
    net: Trainee, x: Tensor, config: VaeFitConfig, weight: float, generator: torch.Generator
) -> tuple[list[Loss], dict[str, float]]:
    """Return the losses of a batch, and its figures.

    Args:
        net: What is trained.
        x: Data in the units of the likelihood `[n, D]`, on the device.
        config: Objective, estimator and samples.
        weight: β of the schedule.
        generator: Source of the noise, on the CPU.

    Returns:
        Losses, and the means of `loss`, `bound` (with β = 1), `reconstruction` and `kl` in nats.
    """
    if config.refine:
        return _refined_losses(net, x, config, weight, generator)
    encoded = net.encode(x)
    noise = net.posterior.noise(len(x), config.draws, generator).to(x.device)
    model = net.model
    if net.weights is not None:
        model = net.weights.drawn(model, net.module, generator)
    drawn = net.posterior(encoded, noise)
    terms = terms_of(model, x, drawn)
    if config.objective == "avo":
        losses = [Loss(-start_bound(model, x, drawn).mean(), "encoder")]
        end = model.log_likelihood(x, drawn.z.detach())
        losses.append(Loss(-end.mean(), "decoder"))
    else:
        losses = [Loss(-_objective(terms, config, weight).mean())]
    if config.objective.startswith("avo"):
        apart = net.posterior(encoded, noise, detach=True)
        losses.append(Loss(-annealed_terms(model, x, encoded, apart).mean(), "head"))
    if net.weights is not None:
        losses.append(Loss(weight * net.weights.kl() / net.data))
    return losses, _figures(terms, losses)


def _refined_losses(
    net: Trainee, x: Tensor, config: VaeFitConfig, weight: float, generator: torch.Generator
) -> tuple[list[Loss], dict[str, float]]:
    """Return the losses of GBVI: the decoder's at the refined q~, the encoder's KL(q~ || q)."""
    how = RefineConfig(
        optimiser="adam", steps=config.refine, samples=_REFINE_DRAWS, lr=config.refine_lr,
        batch_size=len(x), judge_samples=_REFINE_DRAWS, report_samples=_REFINE_DRAWS,
    )  # fmt: skip
    refined = refine(net.model, x, how, generator=generator).posterior
    assert isinstance(refined, Diagonal)  # the family that it starts from
    noise = net.posterior.noise(len(x), config.draws, generator).to(x.device)
    z, log_q = refined.sample(noise)
    kl = refined.kl() if net.model.standard_prior else None
    terms = Terms(net.model.log_likelihood(x, z), net.model.log_prior(z), log_q, kl)
    encoded = net.encode(x)
    apart = kl_between(refined, Diagonal(encoded.mean, encoded.log_sigma))
    losses = [
        Loss(-terms.log_likelihood.mean(), "decoder"),
        Loss(weight * apart.mean(), "encoder"),
    ]
    return losses, _figures(terms, losses)


def kl_between(q: Diagonal, p: Diagonal) -> Tensor:
    """Return KL(q || p) of diagonal Gaussians in nats `[n]`."""
    ratio = q.log_sigma - p.log_sigma
    shift = (q.mean - p.mean) * (-p.log_sigma).exp()
    return 0.5 * ((2 * ratio).exp() + shift.square() - 1 - 2 * ratio).sum(-1)


def _objective(terms: Terms, config: VaeFitConfig, weight: float) -> Tensor:
    """Return what is maximised, `[n]`."""
    if config.objective == "iwae":
        return iwae(terms)
    if config.objective == "alpha":
        return renyi(terms, config.alpha)
    factor = config.beta if config.objective == "beta" else 1.0
    analytic = config.analytic and terms.kl is not None
    return elbo(terms, weight=factor * weight, analytic=analytic)


def _figures(terms: Terms, losses: list[Loss]) -> dict[str, float]:
    """Return the means of a batch."""
    bound = elbo(terms, analytic=terms.kl is not None).detach()
    reconstruction = -terms.log_likelihood.detach().mean()
    return {
        "loss": float(sum(loss.value.detach() for loss in losses)),
        "bound": float(bound.mean()),
        "reconstruction": float(reconstruction),
        "kl": float(-reconstruction - bound.mean()),
    }


@torch.no_grad()
def bound_of(
    net: Trainee, x: Tensor, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the evidence lower bound of each datum, and the divergence in it, `[n]` each.

    The divergence is a closed form where there is one, else from the same draws. The decoder's
    weights are at their means.

    Args:
        net: What was trained.
        x: Data `[n, D]`, on the device.
        samples: Draws of each posterior.
        generator: Source of the noise, on the CPU.
    """
    noise = net.posterior.noise(len(x), samples, generator).to(x.device)
    terms = terms_of(net.model, x, net.posterior(net.encode(x), noise))
    bound = elbo(terms, analytic=terms.kl is not None)
    return bound, terms.log_likelihood.mean(0) - bound
