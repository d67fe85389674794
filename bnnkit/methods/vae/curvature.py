r"""The Gauss-Newton precision of a datum's latents under a decoder.

.. math:: P = J^T F J + \Lambda_{prior}

with J the Jacobian of the decoder's outputs by differences over sigma_i: secants as wide as the
posterior, which need d + 1 values of the decoder and nothing else, and see past the kinks of
piecewise linear nets. P preconditions and explains away noise; it need not be exact.

References:
    Khan and Rue, The Bayesian learning rule (2023), sec. 4; Särkkä, Bayesian filtering and
    smoothing (2013), sec. 5.4 (statistical linearisation).
"""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.bayes.fisher import fisher_information
from bnnkit.methods.vae.latent_model import LatentModel

__all__ = ["gauss_newton_precision", "inverse", "inverse_by_products", "precision_at_once"]

_NUMBERS = 2**22
"""Numbers of decoder output held at once."""
_PRODUCTS = 28
"""Iterations: each doubles the correct digits, once the condition number is used up."""
_LEAST_PRIOR = 1e-3
"""Precision that a prior counts for where it is flat or curved the other way."""


@torch.no_grad()
def gauss_newton_precision(model: LatentModel, mean: Tensor, sigma: Tensor) -> Tensor:
    """Return P `[n, d, d]`, symmetric and positive definite.

    Args:
        model: The decoder, its likelihood and prior.
        mean: Where, `[n, d]`.
        sigma: Width of the secants `[n, d]`.
    """
    d = mean.shape[1]
    width = sum(p[0].numel() for p in model.decode(mean[:1]))
    size = max(1, _NUMBERS // ((d + 1) * width))
    parts = zip(torch.split(mean, size), torch.split(sigma, size), strict=True)
    return torch.cat([precision_at_once(model, m, s) for m, s in parts])


def precision_at_once(model: LatentModel, mean: Tensor, sigma: Tensor) -> Tensor:
    """Return what `gauss_newton_precision` does, by one pass of the decoder: for export."""
    steps = torch.diag_embed(sigma).transpose(0, 1)  # [d, n, d]
    prior = torch.diag_embed(_prior_precision(model, mean, steps))
    return _information(model, mean, steps) + prior


def inverse(precision: Tensor) -> Tensor:
    """Return P⁻¹ `[n, d, d]`, NaN where P is not positive definite."""
    factor, _ = torch.linalg.cholesky_ex(precision)
    identity = torch.eye(precision.shape[-1]).to(precision).expand_as(precision)
    covariance: Tensor = torch.cholesky_solve(identity, factor)
    return covariance


def inverse_by_products(precision: Tensor) -> Tensor:
    """Return P⁻¹ `[n, d, d]` by Schulz's iteration X ← X (2 I - P X): for export.

    Exact to rounding up to condition numbers of about 2²⁴; beyond, too small along the flattest
    directions, which makes Newton's steps shorter there.

    References:
        G. Schulz, Iterative Berechnung der reziproken Matrix (1933).
    """
    double = 2 * torch.eye(precision.shape[-1]).to(precision)
    x = 0.5 * double / precision.square().sum((-2, -1), keepdim=True).sqrt()
    for _ in range(_PRODUCTS):
        x = x @ (double - precision @ x)
    return x


def _information(model: LatentModel, mean: Tensor, steps: Tensor) -> Tensor:
    d, n, _ = steps.shape
    ahead = (mean + steps).reshape(d * n, d)
    width = steps.sum(-1)  # the one number of each that is not zero, [d, n]
    parameters, tangents = [], []
    for p in model.decode(torch.cat([ahead, mean])):
        if p.shape[0] != (d + 1) * n:  # the same for all latents, as a shared variance
            parameters.append(p)
            tangents.append(p.new_zeros(d, n, *p.shape[1:]))
            continue
        moved, here = torch.unflatten(p[: d * n], 0, (d, n)), p[d * n :]
        tangents.append((moved - here) / width.view(d, n, *[1] * (p.dim() - 1)))
        parameters.append(here)
    return fisher_information(model.likelihood, parameters, tangents)


def _prior_precision(model: LatentModel, mean: Tensor, steps: Tensor) -> Tensor:
    """Return minus the second derivatives of log p(z) along each latent, `[n, d]`."""
    if model.standard_prior:
        return torch.ones_like(mean)
    ahead, here, behind = (model.log_prior(z) for z in (mean + steps, mean, mean - steps))
    bend = (2 * here - ahead - behind) / steps.sum(-1).square()
    return bend.T.clamp_min(_LEAST_PRIOR)
