"""One step of the posteriors of a batch of data, each datum by itself.

The bounds of all data are summed, and all optimisers work element by element: so each datum has
its own rate and state, and none feels another. Nothing but the posterior takes a gradient.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.curvature import gauss_newton_precision, inverse
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.natural import fit_spread, natural_step

__all__ = [
    "Elementwise",
    "Natural",
    "Stepper",
    "bound_samples",
    "make_stepper",
    "natural_iteration",
]


class Stepper(Protocol):
    """Holds the posteriors of a batch, and improves them."""

    posterior: Posterior

    def step(self, noise: Tensor, rate: float) -> Tensor:
        """Take one step from draws `[s, n, d]`; return the bound before it `[n]`, in nats."""
        ...


def bound_samples(model: LatentModel, x: Tensor, q: Posterior, noise: Tensor) -> Tensor:
    """Return terms whose mean over draws is the evidence lower bound.

    With a closed form, log p(x | z) - KL(q || p); else log p(x, z) - log q(z).

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        q: Posteriors of the n data.
        noise: Standard normal numbers `[s, n, d]`.

    Returns:
        `[s, n]`, in nats.
    """
    z, log_q = q.sample(noise)
    if model.knows_kl(q):
        return model.log_likelihood(x, z) - q.kl()
    return model.log_joint(x, z) - log_q


class Elementwise:
    """Gradient ascent by one of torch's optimisers.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        q: Where to start.
        optimiser: `adam`, `sgd` or `rmsprop`.
    """

    def __init__(self, model: LatentModel, x: Tensor, q: Posterior, optimiser: str) -> None:
        self.posterior = q.leaves()
        self._model, self._x = model, x
        self._leaves = self.posterior.parameters()
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop}
        self._optimiser = kind[optimiser](self._leaves, lr=1.0)

    def step(self, noise: Tensor, rate: float) -> Tensor:
        """Take one step; see `Stepper`."""
        with torch.enable_grad():
            bound = bound_samples(self._model, self._x, self.posterior, noise).mean(0)
            gradients = torch.autograd.grad(-bound.sum(), self._leaves)
        for leaf, gradient in zip(self._leaves, gradients, strict=True):
            leaf.grad = gradient
        self._optimiser.param_groups[0]["lr"] = rate
        self._optimiser.step()
        return bound.detach()


class Natural:
    """Natural gradients with a Gauss-Newton control variate; see `natural`.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        q: Where to start; its spread is set by the curvature at `mean`.
        mean: Where the curvature is taken `[n, d]`.
        sigma: The width over which it is taken `[n, d]`.
    """

    def __init__(
        self, model: LatentModel, x: Tensor, q: Posterior, mean: Tensor, sigma: Tensor
    ) -> None:
        self._model, self._x = model, x
        precision = gauss_newton_precision(model, mean, sigma)
        self._precision, self._covariance = precision, inverse(precision)
        self.posterior = fit_spread(q, precision)

    def step(self, noise: Tensor, rate: float) -> Tensor:
        """Take one step; see `Stepper`."""
        self.posterior, bound = natural_iteration(
            self._model, self._x, self.posterior, self._precision, self._covariance, noise, rate
        )
        return bound


def natural_iteration(
    model: LatentModel,
    x: Tensor,
    q: Posterior,
    precision: Tensor,
    covariance: Tensor,
    noise: Tensor,
    rate: float | Tensor,
) -> tuple[Posterior, Tensor]:
    """Return the posterior after one natural step, and the bound before it.

    Args:
        model: Decoder and prior.
        x: `[n, D]`.
        q: A Gaussian posterior of the n data.
        precision: The Gauss-Newton precision `[n, d, d]`.
        covariance: Its inverse.
        noise: Standard normal numbers `[s, n, d]`.
        rate: Of the step.

    Returns:
        The posterior, and the bound in nats `[n]`.
    """
    z, log_q = q.sample(noise)
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        log_joint = model.log_joint(x, z)
        (gradient,) = torch.autograd.grad(log_joint.sum(), z)
    bound = (log_joint.detach() - log_q).mean(0)
    return natural_step(q, noise, gradient, precision, covariance, rate), bound


def make_stepper(
    optimiser: str, model: LatentModel, x: Tensor, q: Posterior, amortised: tuple[Tensor, Tensor]
) -> Stepper:
    """Return the stepper of a name.

    Args:
        optimiser: One of `spec.vae_refine.OPTIMISERS`.
        model: Decoder and prior.
        x: `[n, D]`.
        q: Where to start.
        amortised: Mean and log sigma of q(z | x) before refinement, each `[n, d]`.
    """
    if optimiser == "natural":
        mean, log_sigma = amortised
        return Natural(model, x, q, mean, log_sigma.exp())
    return Elementwise(model, x, q, optimiser)
