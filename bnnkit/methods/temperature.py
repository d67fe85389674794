r"""Temperature scaling: one number that divides the logits, fitted by maximum likelihood.

With :math:`\beta = 1/T` the mean negative log-likelihood

.. math::
    f(\beta) = \frac1n \sum_i \log \sum_k e^{\beta z_{ik}} - \beta z_{iy_i}, \qquad
    f'(\beta) = \frac1n \sum_i E_{p_\beta}[z_i] - z_{iy_i},

is convex, so that its slope grows with :math:`\beta`; the root of the slope is found by bisection
of :math:`\log \beta`.

References:
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On calibration of modern neural networks (2017),
    section 4.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bnnkit.errors import DataError

__all__ = ["MOST", "fit_temperature", "tempered"]

MOST = 100.0
"""Temperatures are sought between 1 / 100 and 100."""


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Return the temperature with the least negative log-likelihood.

    Args:
        log_probs: `[n, k]` logits or log-probabilities; of averaged predictions, the logarithm of
            the average.
        labels: int64 `[n]`.

    Returns:
        The temperature, in [1/100, 100]; the ends are reached where all labels are the most
        likely class, or where the predictions say nothing.

    Raises:
        DataError: There are no examples.
    """
    if not len(labels):
        raise DataError("Fitting a temperature", "no examples", "it is fitted to labels")
    z = log_probs.double()
    z = z - z.max(1, keepdim=True).values
    at_label = z.gather(1, labels[:, None]).mean()

    def slope(log_beta: float) -> float:
        p = F.softmax(math.exp(log_beta) * z, dim=1)
        # a probability of zero has a logit of minus infinity and no share in the mean
        return float(torch.where(p > 0, p * z, 0.0).sum(1).mean() - at_label)

    low, high = -math.log(MOST), math.log(MOST)
    if slope(low) >= 0:
        return MOST
    if slope(high) <= 0:
        return 1 / MOST
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return math.exp(-0.5 * (low + high))


def tempered(log_probs: Tensor, temperature: float) -> Tensor:
    """Return the log-probabilities `[n, k]` at a temperature."""
    return F.log_softmax(log_probs / temperature, dim=1)
