r"""Likelihood regret: how much a datum's bound rises when its own posterior is optimised.

.. math:: LR(x) = \max_q L(x; q) - L(x; q_\phi(z | x)) \ge 0

Data unlike those of training are badly served by the encoder, so that their regret is large, while
their bound may well be high. Xiao et al. optimise the weights of the encoder for the one datum;
here the parameters of q(z | x) are themselves optimised, the decoder frozen in both. Every q that
their encoder can reach is in the family, so that this regret is at least theirs, once both are
converged; and it depends on the family: compare data sets under the same one.

References:
    Xiao, Yan and Amit, Likelihood regret: an out-of-distribution detection score for variational
    auto-encoder (2020), eq. 6.
"""

from __future__ import annotations

from torch import Tensor

from bnnkit.methods.vae.refine import Refined

__all__ = ["likelihood_regret"]


def likelihood_regret(refined: Refined) -> Tensor:
    """Return the regret of each datum in nats `[n]`; the higher, the less like training data.

    By the fresh draws of the report, the same on both sides: zero where refinement found nothing
    better, and below zero by chance only.

    Args:
        refined: From `refine`.
    """
    return refined.elbo_after - refined.elbo_before
