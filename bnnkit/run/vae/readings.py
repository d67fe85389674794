"""What an encoder's second output is: trained under the right reading, it makes the bound best."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bnnkit.bayes.likelihoods import log_likelihood
from bnnkit.io.autoencoder_encoder import to_log_sigma
from bnnkit.io.autoencoders import Autoencoder
from bnnkit.methods.vae.latent_model import log_standard_normal
from bnnkit.spec.vae import SPREADS

__all__ = ["bounds_of_readings", "settle_spread"]

_SAMPLES = 8
_SEED = 0
_MOST_LOG_SIGMA = 12.0
_CLEAR = 3.0
"""Standard errors by which another reading's bound must be above the assumed one's."""
_LEAST = 0.25
"""Nats a latent by which it must be, too. A reading that doubles or halves a log deviation costs
each latent in use about one; a net trained for another objective (β > 1, another σ of the decoder)
leaves less than this under its own."""


def bounds_of_readings(auto: Autoencoder, x: Tensor) -> dict[str, Tensor]:
    """Return the evidence bound of each datum under each reading that is possible.

    An encoder was trained to maximise the bound, so a reading that scales its deviations lowers
    it. All readings meet the same noise.

    Args:
        auto: The autoencoder.
        x: Prepared data `[n, D]`.

    Returns:
        By reading, float64 `[n]`, in nats.
    """
    x = x.to(auto.device)
    out: dict[str, Tensor] = {}
    with torch.no_grad():
        mean, spread = auto.encode_raw(x)
        source = torch.Generator().manual_seed(_SEED)
        noise = torch.randn(_SAMPLES, *mean.shape, generator=source).to(mean)
        for kind in SPREADS:
            log_sigma = to_log_sigma(kind, spread)
            if not bool((log_sigma.abs() < _MOST_LOG_SIGMA).all()):  # NaN included
                continue
            bounds = [_bound(auto, x, mean, log_sigma, e) for e in noise]
            out[kind] = torch.stack(bounds).double().mean(0).cpu()
    return out


def _bound(auto: Autoencoder, x: Tensor, mean: Tensor, log_sigma: Tensor, noise: Tensor) -> Tensor:
    """Return log p(x, z) - log q(z | x) at one z, in nats `[n]`."""
    z = mean + log_sigma.exp() * noise
    log_q = log_standard_normal(noise) - log_sigma.sum(-1)
    joint = log_likelihood(auto.likelihood, x, auto.decode(z)) + auto.log_prior(z)
    return joint - log_q


def settle_spread(auto: Autoencoder, x: Tensor) -> Autoencoder:
    """Choose the reading of the encoder's spread, where nobody stated it.

    Args:
        auto: The autoencoder.
        x: A few prepared data `[n, D]`.

    Returns:
        It, read otherwise where another reading's bound is clearly higher; a stated reading is
        kept, with a note where that is so.
    """
    bounds = bounds_of_readings(auto, x)
    if not bounds or auto.spec.variance_is is None:
        return auto
    best = max(bounds, key=lambda kind: float(bounds[kind].mean()))
    used = auto.spec.variance_is
    if best == used or (used in bounds and not _clearly_above(bounds[best], bounds[used])):
        return auto
    gain, small = "", False
    if used in bounds:
        above = float((bounds[best] - bounds[used]).mean())
        gain, small = f", {above:.1f} nats above {used}", above < _LEAST * auto.latent
    ground = f"{float(bounds[best].mean()):.1f} nats on {len(x)} data{gain}"
    if small or "variance_is" not in auto.assumed:
        return auto.noting(
            f"Read as {best}, the spread of its encoder would give a better bound: {ground}."
        )
    return auto.reading_spread_as(
        best,
        because=f"The spread of its encoder is read as {best}, which gives the best bound: "
        f"{ground}; --variance-is says otherwise.",
    )


def _clearly_above(first: Tensor, second: Tensor) -> bool:
    gain = first - second
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) > _CLEAR * error
