r"""Log-likelihoods of data under the parameters that a decoder gives, in nats per datum.

======================  =====================  ====================================================
name                    parameters             log p(x | z), summed over the D numbers of a datum
======================  =====================  ====================================================
`bernoulli`             logits l               x l - log(1 + eˡ), x in {0, 1}
`continuous-bernoulli`  logits l               the same + log C(l), x in [0, 1]
`gaussian`              mean m, log sigma s    -½ (x - m)² e⁻²ˢ - s - ½ log 2π
`categorical256`        logits l `[..., 256]`  l_x - log Σ_k e^{l_k}, x in {0, ..., 255}
======================  =====================  ====================================================

The normaliser of the continuous Bernoulli is :math:`C = l / \tanh(l/2)`, with the limit 2 at 0.

References:
    Kingma and Welling, Auto-Encoding Variational Bayes (2014), appendix C; Loaiza-Ganem and
    Cunningham, The continuous Bernoulli: fixing a pervasive error in variational autoencoders
    (2019), eqs. 6-7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["LIKELIHOODS", "likelihood_mean", "log_likelihood"]

LIKELIHOODS = ("bernoulli", "gaussian", "continuous-bernoulli", "categorical256")

_NEAR_ZERO = 1e-2
"""Logits nearer to 0 take the series of log C: there the quotient is 0 / 0."""


def log_likelihood(kind: str, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Return log p(x | z) for each datum.

    Args:
        kind: One of `LIKELIHOODS`.
        x: Data `[n, D]`; of `categorical256` the levels 0 to 255, of any dtype.
        parameters: As in the table above, each `[*, n, D]` (logits of `categorical256`
            `[*, n, D, 256]`) or of a shape that broadcasts to it.

    Returns:
        `[*, n]`, in nats.

    Raises:
        KeyError: No such likelihood.
    """
    return _TERMS[kind](x, *parameters).sum(-1)


def likelihood_mean(kind: str, parameters: Sequence[Tensor]) -> Tensor:
    r"""Return the mean of x given z, which pictures show.

    It is sigmoid(l) of `bernoulli`, m of `gaussian`, :math:`1/(1 - e^{-l}) - 1/l` of
    `continuous-bernoulli` (Loaiza-Ganem and Cunningham 2019, eq. 8) and the expected level of
    `categorical256`.

    Args:
        kind: One of `LIKELIHOODS`.
        parameters: As of `log_likelihood`.

    Returns:
        `[*, D]`, in the units of the data.

    Raises:
        KeyError: No such likelihood.
    """
    return _MEANS[kind](parameters[0])


def _bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return x * logits - F.softplus(logits)


def _continuous_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return _bernoulli(x, logits) + _log_normaliser(logits)


def _log_normaliser(logits: Tensor) -> Tensor:
    """Return log(l / tanh(l / 2)), by its series log 2 + l² / 12 - 7 l⁴ / 1440 near 0."""
    near = logits.abs() < _NEAR_ZERO
    far = torch.where(near, torch.ones_like(logits), logits).abs()  # keeps the gradient finite
    square = logits.square()
    series = math.log(2.0) + square / 12 - 7 * square.square() / 1440
    return torch.where(near, series, far.log() - torch.tanh(far / 2).log())


def _gaussian(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    scaled = (x - mean) * torch.exp(-log_sigma)
    return -0.5 * scaled.square() - log_sigma - 0.5 * math.log(2 * math.pi)


def _categorical(x: Tensor, logits: Tensor) -> Tensor:
    levels = x.long().expand(logits.shape[:-1]).unsqueeze(-1)
    return logits.log_softmax(-1).gather(-1, levels).squeeze(-1)


_TERMS: dict[str, Callable[..., Tensor]] = {
    "bernoulli": _bernoulli,
    "continuous-bernoulli": _continuous_bernoulli,
    "gaussian": _gaussian,
    "categorical256": _categorical,
}


def _continuous_bernoulli_mean(logits: Tensor) -> Tensor:
    near = logits.abs() < _NEAR_ZERO
    far = torch.where(near, torch.ones_like(logits), logits)
    return torch.where(near, 0.5 + logits / 12, -1 / torch.expm1(-far) - 1 / far)


def _expected_level(logits: Tensor) -> Tensor:
    levels = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    return logits.softmax(-1) @ levels


_MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "bernoulli": torch.sigmoid,
    "continuous-bernoulli": _continuous_bernoulli_mean,
    "gaussian": lambda mean: mean,
    "categorical256": _expected_level,
}
