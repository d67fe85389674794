r"""Losses that teach a discriminator the acceptance ratio of implicit Metropolis-Hastings.

A pair is a real state :math:`y \sim p` and a proposal :math:`x \sim q(x \mid y)`. Write
:math:`a = \log d(x, y) / d(y, x)` for the log acceptance ratio that a discriminator believes in.
Each loss is smallest at :math:`a = \log p(x) q(y \mid x) / p(y) q(x \mid y)`:

.. math::
    \mathrm{CCE} = -\mathbb E \log d(y, x) - \mathbb E \log (1 - d(x, y)), \quad
    \mathrm{MCE} = \mathbb E \log (1 + e^{a}), \quad
    \mathrm{UB} = \mathbb E\, [a + e^{a}].

For independent proposals :math:`d` compares one image with none: with a logit :math:`s`,
:math:`a = s(x) - s(y)`, CCE is the ordinary cross-entropy of real against generated, and MCE the
pairwise logistic loss. The upper bound wants :math:`d \in [b, 1]`, since :math:`e^a` has no bound
of its own: there :math:`a = \log d(x) - \log d(y)` with :math:`d = b + (1 - b) \sigma(s)`.

References:
    K. Neklyudov, E. Egorov, D. Vetrov, The implicit Metropolis-Hastings algorithm (2019), eq. 28
    (there x is real and y the proposal) and section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["log_d", "pair_loss", "single_loss"]


def log_d(logit: Tensor, floor: float) -> Tensor:
    """Return log d for d = b + (1 - b) sigmoid(logit); a floor `b` of 0 is the plain sigmoid."""
    if floor == 0.0:
        return F.logsigmoid(logit)
    return torch.logaddexp(
        torch.full_like(logit, math.log(floor)), math.log1p(-floor) + F.logsigmoid(logit)
    )


def single_loss(real: Tensor, fake: Tensor, loss: str, floor: float) -> Tensor:
    """Return the loss of an independent proposal, each real image with each generated one.

    Args:
        real: Logits of real images `[n]`.
        fake: Logits of generated images `[m]`.
        loss: `bce`, `mce` or `ub`.
        floor: b of the upper bound.

    Returns:
        The mean loss, nats.
    """
    if loss == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if loss == "mce":
        return F.softplus(fake[None, :] - real[:, None]).mean()
    a = log_d(fake, floor)[None, :] - log_d(real, floor)[:, None]
    return (a + a.exp()).mean()


def pair_loss(forward: Tensor, backward: Tensor, loss: str, floor: float) -> Tensor:
    """Return the loss of a Markov proposal.

    Args:
        forward: Logits of d(y, x), the real image first `[n]`.
        backward: Logits of d(x, y), the proposal first `[n]`.
        loss: `bce` (CCE), `mce` or `ub`.
        floor: b of d in [b, 1]; 0 but for the upper bound.

    Returns:
        The mean loss, nats.
    """
    if loss == "bce":
        return F.softplus(-forward).mean() + F.softplus(backward).mean()
    a = log_d(backward, floor) - log_d(forward, floor)
    if loss == "mce":
        return F.softplus(a).mean()
    return (a + a.exp()).mean()
