r"""Temperature scaling: one number that divides the logits, fitted to held-out labels.

With :math:`u = -\log T` and n labels the temperature has the largest posterior density,

.. math::
    \hat u = \arg\min_u \; n f(e^u) + \frac{u^2}{2 s^2}, \qquad
    f(\beta) = \frac1n \sum_i \log \sum_k e^{\beta z_{ik}} - \beta z_{iy_i},

under the prior :math:`u \sim N(0, s^2)`, s = 1/2. The prior is there for few labels, or for labels
that all are the most likely class: the likelihood alone then drives the temperature to zero, and
the first wrong answer costs hundreds of nats. Against thousands of labels it weighs nothing. The
root of the slope is found by bisection.

References:
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On calibration of modern neural networks (2017),
    section 4.2 (without the prior).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bnnkit.errors import DataError
from bnnkit.spec.noise import TEMPERATURES

__all__ = ["PRIOR_DEVIATION", "fit_temperature", "tempered"]

PRIOR_DEVIATION = 0.5
"""Of the logarithm of the temperature, in nats."""


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """Return the temperature with the largest posterior density, between 1/1000 and 1000.

    Args:
        log_probs: `[n, k]` logits or log-probabilities; of averaged predictions, the logarithm of
            the average.
        labels: int64 `[n]`.

    Raises:
        DataError: There are no examples.
    """
    if not len(labels):
        raise DataError("Fitting a temperature", "no examples", "it is fitted to labels")
    z = log_probs.double()
    z = z - z.max(1, keepdim=True).values
    at_label = z.gather(1, labels[:, None]).mean()

    def slope(u: float) -> float:
        beta = math.exp(u)
        p = F.softmax(beta * z, dim=1)
        # a probability of zero has a logit of minus infinity and no share in the mean
        mean = torch.where(p > 0, p * z, 0.0).sum(1).mean()
        return len(labels) * beta * float(mean - at_label) + u / PRIOR_DEVIATION**2

    low, high = (-math.log(t) for t in reversed(TEMPERATURES))
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return min(max(math.exp(-0.5 * (low + high)), TEMPERATURES[0]), TEMPERATURES[1])


def tempered(log_probs: Tensor, temperature: float) -> Tensor:
    """Return the log-probabilities `[n, k]` at a temperature."""
    return F.log_softmax(log_probs / temperature, dim=1)
