"""Densities to sample from: what a target is, and the targets that come with bnnkit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Minibatches",
    "Modes",
    "Reference",
    "Target",
    "logistic_regression",
    "six_gaussians",
]

_SIX_RADIUS, _SIX_SD = 5.0, 0.5


@dataclass(frozen=True)
class Modes:
    """The known modes of a target.

    Args:
        centres: `[m, dim]`; a draw belongs to the nearest.
        weights: Their true probabilities `[m]`.
    """

    centres: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Reference:
    """Moments from elsewhere that samples are held against.

    Args:
        mean: `[dim]`.
        sd: `[dim]`.
        source: Where they come from, in a few words.
        error: Largest Monte-Carlo error of the means in units of sd; 0 for a closed form.
    """

    mean: Tensor
    sd: Tensor
    source: str
    error: float = 0.0


@dataclass(frozen=True)
class Minibatches:
    """A log-density that is a sum over data, for training on parts of them.

    Args:
        size: Number of data.
        log_prior: Positions `[n, dim]` to `[n]`.
        log_likelihood: Positions `[n, dim]` and row numbers `[m]` to the sum over these rows
            `[n]`.
    """

    size: int
    log_prior: Callable[[Tensor], Tensor]
    log_likelihood: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """A density on R^dim, up to a constant.

    Args:
        name: How its owner calls it.
        dim: Number of coordinates.
        log_prob: Positions `[n, dim]`, float32, to log densities `[n]`; differentiable.
        modes: Its modes, where they are known.
        reference: Its moments, where they are known.
        minibatches: Its parts, where it is a sum over data.
        notes: What was assumed about it.
    """

    name: str
    dim: int
    log_prob: Callable[[Tensor], Tensor]
    modes: Modes | None = None
    reference: Reference | None = None
    minibatches: Minibatches | None = None
    notes: tuple[str, ...] = ()


def six_gaussians() -> Target:
    """Return the mixture of six Gaussians in the plane, equally likely, on a circle.

    Means at distance 5 from the origin, standard deviation 0.5.

    References:
        J. Song, S. Zhao, S. Ermon, A-NICE-MC: adversarial training for MCMC (2017), MoG6; used by
        Neklyudov, Shvechikov, Vetrov, Metropolis-Hastings view on variational inference and
        adversarial training (2018), sec. 4.1.
    """
    angles = torch.arange(6) * (math.pi / 3)
    centres = _SIX_RADIUS * torch.stack([angles.sin(), angles.cos()], dim=1)
    constant = math.log(6 * 2 * math.pi * _SIX_SD**2)

    def log_prob(x: Tensor) -> Tensor:
        distance = (x[:, None, :] - centres).square().sum(-1)
        return torch.logsumexp(-distance / (2 * _SIX_SD**2), dim=1) - constant

    sd = torch.full((2,), math.sqrt(_SIX_RADIUS**2 / 2 + _SIX_SD**2))
    return Target(
        name="mixture6",
        dim=2,
        log_prob=log_prob,
        modes=Modes(centres, torch.full((6,), 1 / 6)),
        reference=Reference(torch.zeros(2), sd, "closed form"),
    )


def logistic_regression(
    name: str, features: Tensor, labels: Tensor, notes: tuple[str, ...] = ()
) -> Target:
    r"""Return the posterior of a Bayesian logistic regression under a standard normal prior.

    Features are standardised, a constant comes first: :math:`p(y_i = 1) = \sigma(w^T [1, x_i])`
    with :math:`w \sim N(0, I)`, the intercept included. A constant feature is left out.

    Args:
        name: How its owner calls it.
        features: `[n, d]`.
        labels: `[n]`, 0 and 1.
        notes: What was assumed in reading them.
    """
    x, y = features.double(), labels.double()
    sd = x.std(dim=0, correction=0)
    varies = sd > 1e-12 * x.abs().amax(dim=0).clamp_min(1e-300)
    x = (x[:, varies] - x[:, varies].mean(dim=0)) / sd[varies]
    if left_out := int((~varies).sum()):
        notes += (f"{left_out} constant features were left out",)
    design = torch.cat([torch.ones(len(x), 1), x], dim=1).float()
    dim = design.shape[1]
    # sum over y of y eta - softplus(eta): the first part is linear in w
    signs = (1 - 2 * y).float()

    def log_prior(w: Tensor) -> Tensor:
        return -0.5 * w.square().sum(1) - 0.5 * dim * math.log(2 * math.pi)

    def log_likelihood(w: Tensor, rows: Tensor) -> Tensor:
        return -F.softplus((w @ design[rows].T) * signs[rows]).sum(1)

    def log_prob(w: Tensor) -> Tensor:
        return log_prior(w) - F.softplus((w @ design.T) * signs).sum(1)

    prior = "prior N(0, 1) on each of the standardised coefficients and on the intercept, first"
    return Target(
        name=name,
        dim=dim,
        log_prob=log_prob,
        minibatches=Minibatches(len(x), log_prior, log_likelihood),
        notes=(*notes, prior),
    )
