"""Whether a refined posterior is better than the one it started from, datum by datum.

The few draws that suffice for a gain of several nats miss what a posterior that has grown too wide
loses in its tails. Data whose gain is small, or small beside its error, are therefore looked at
again with more draws: a sequential test, which costs the clear ones nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.methods.vae.latent_model import LatentModel
from bnnkit.methods.vae.noise import DatumNoise, balanced

__all__ = ["Gains", "gains"]

_LOOKS = (1, 4, 20)
"""Draws of each look, in multiples of the first's."""
_PLAIN = 2.0
"""Standard errors of a gain or loss that needs no further look."""
_LARGE = 1.0
"""Nats of one; a standard error of few draws is itself too small where tails are heavy."""


class Gains(NamedTuple):
    """What data gained.

    Args:
        mean: Mean of the bound's gain over draws, in nats `[n]`; not a number where one was not.
        error: Standard error of it `[n]`.
        bound: The bound that it is a gain on `[n]`.
    """

    mean: Tensor
    error: Tensor
    bound: Tensor


def gains(
    model: LatentModel, x: Tensor, pair: tuple[Posterior, Posterior], noise: DatumNoise, draws: int
) -> Gains:
    """Return what each datum's bound gains from the first posterior of a pair to the second.

    Args:
        model: The autoencoder.
        x: Data `[n, D]`.
        pair: Two posteriors of these data; both meet the same draws.
        noise: The data's own streams: no datum's figures depend on which others are unclear.
        draws: Of the first look, two or more.
    """
    n = len(x)
    rows = torch.arange(n)
    count, total, square, bound = torch.zeros(4, n, dtype=torch.float64, device=x.device)
    for factor in _LOOKS:
        fresh = balanced(noise.draw(factor * draws, rows))
        old, new = (_log_weights(model, x[rows], q.rows(rows), fresh) for q in pair)
        terms = (new - old).double()
        count[rows] += len(terms)
        total[rows] += terms.sum(0)
        square[rows] += terms.square().sum(0)
        bound[rows] += old.double().sum(0)
        mean = total / count
        variance = (square / count - mean.square()).clamp_min(0) * count / (count - 1)
        error = (variance / count).sqrt()
        rows = (mean.abs() < (_PLAIN * error).clamp_min(_LARGE)).nonzero().reshape(-1).cpu()
        if not len(rows):
            break
    return Gains(*(values.to(x.dtype) for values in (mean, error, bound / count)))


def _log_weights(model: LatentModel, x: Tensor, q: Posterior, noise: Tensor) -> Tensor:
    """Return log p(x, z) - log q(z) `[s, n]`: less noise than a closed KL where q is nearly right.

    Where q is the true posterior it is log p(x) for every z.
    """
    z, log_q = q.sample(noise)
    return model.log_joint(x, z) - log_q
