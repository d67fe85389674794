r"""What a discriminator's loss says about the distance of the chain's distribution from p.

With :math:`a = \log d(x, y) / d(y, x)`, :math:`y \sim p`, :math:`x \sim q(x \mid y)`, and
:math:`d \in [b, 1]`, a chain whose proposals reach every state with density at least
:math:`\epsilon` times that of p has a stationary distribution :math:`t` with

.. math::
    \mathrm{TV}(t, p)^2 \le \frac{4 + 2b}{3 \epsilon^2 b^3}
    \bigl( \mathbb E[a + e^{a}] - 1 + \mathrm{KL}(p(y) q(x \mid y) \,\|\, p(x) q(y \mid x)) \bigr).

The bracket is zero for the exact ratio. The prefactor is so large that the bound says nothing
in practice, which is why it is never shown without the loss itself.

References:
    K. Neklyudov, E. Egorov, D. Vetrov, The implicit Metropolis-Hastings algorithm (2019), 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TvBound", "tv_bound"]


@dataclass(frozen=True)
class TvBound:
    """The bound on the squared total variation distance.

    Args:
        loss: E[a + exp a], nats.
        floor: b.
        prefactor: (4 + 2b) / (3 eps^2 b^3) at the most favourable eps = 1.
        gap: The bracket, nats, not below zero.
        bound: Their product.
        vacuous: Whether it exceeds 1, more than any distance can be.
    """

    loss: float
    floor: float
    prefactor: float
    gap: float
    bound: float
    vacuous: bool


def tv_bound(loss: float, divergence: float, floor: float, epsilon: float = 1.0) -> TvBound:
    """Evaluate the bound.

    Args:
        loss: E[a + exp a] of held-out pairs, nats.
        divergence: Estimate of KL(p(y) q(x|y) || p(x) q(y|x)), nats.
        floor: b, the least value of the discriminator.
        epsilon: Minorisation constant; 1 is the most favourable there can be.
    """
    prefactor = (4 + 2 * floor) / (3 * epsilon**2 * floor**3)
    gap = max(0.0, loss - 1 + divergence)
    bound = prefactor * gap
    return TvBound(loss, floor, prefactor, gap, bound, bound > 1)
