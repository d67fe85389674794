r"""What a proposal is trained for: the acceptance rate, a bound of it, or one of the two KLs.

Symbols: :math:`x \sim p` from the running chain, :math:`x' \sim q_\phi`, and the log ratio

.. math:: s = \log \frac{p(x') q(x)}{p(x) q(x')} = a(x') - a(x), \qquad a = \log p - \log q.

===========  =================================================  =========================
name         maximised                                          needs
===========  =================================================  =========================
``vi``       :math:`E_{q} a(x')`, so minus KL(q || p)           the gradient of p
``ar``       :math:`E_{p, q} \min\{1, e^s\}`, the acceptance    it, and states of chains
``kl``       :math:`E_{p, q} s`, minus the symmetric KL         it, and states of chains
``forward``  :math:`-E_p a(x)`, so minus KL(p || q)             states of chains only
``renyi``    :math:`-\log E_p e^{r a(x)} / r`, so minus the     states of chains only
             Rényi divergence of order 1 + r of p from q
===========  =================================================  =========================

By Pinsker's inequality the acceptance rate is at least :math:`1 - \sqrt{-E s / 2}`, so `kl`
maximises a bound of it. Unlike `ar` it is linear in log p: an unbiased estimate of log p from a
minibatch keeps its gradient unbiased. The first three differentiate through :math:`x'`; the
states x are constants. `forward` is maximum likelihood on the chain's states. `renyi` weighs each
state by :math:`(p / q)^r` besides, with r = 0.3: a chain stays for p / q proposals or so, and
r = 1 aims at the variance of the weights itself, which too few states decide. Of the five it
leaves the widest tails, where an independent chain sticks, for a little less acceptance.

References:
    K. Neklyudov, P. Shvechikov, D. Vetrov, Metropolis-Hastings view on variational inference and
    adversarial training (2018), eqs. 13-15; Y. Li, R. Turner, Rényi divergence variational
    inference (2016), eq. 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["NEEDS_CHAIN", "STATES_ONLY", "objective"]

NEEDS_CHAIN = frozenset({"ar", "kl", "forward", "renyi"})
STATES_ONLY = frozenset({"forward", "renyi"})

_TAIL = 0.3
"""r of the Rényi divergence of order 1 + r."""


def objective(
    name: str,
    proposed: Tensor | None,
    log_weight: Tensor | None,
    states: Tensor | None = None,
) -> Tensor:
    """Return what a training step maximises, a scalar.

    Args:
        name: One of `bnnkit.spec.proposal.OBJECTIVES`.
        proposed: a(x') of the proposals `[n]`, with gradient; -inf or NaN outside the support;
            not of `forward` and `renyi`.
        log_weight: Log weights of the proposals `[n]`, which sum to one, with gradient.
        states: a(x) of the chain's states `[m]`, with gradient; not of `vi`.

    Returns:
        nats: the log acceptance rate for `ar`, minus the divergence for the others; `vi`,
        `forward` and `renyi` up to the unknown constant of p, which cancels in the other two.
    """
    if name == "forward":
        assert states is not None
        return -states.mean()
    if name == "renyi":
        assert states is not None
        return (math.log(len(states)) - torch.logsumexp(_TAIL * states, 0)) / _TAIL
    assert proposed is not None
    assert log_weight is not None
    if name == "ar":
        assert states is not None
        return _log_acceptance(proposed, log_weight, states)
    inside = proposed.isfinite()
    weight = torch.where(inside, log_weight, -math.inf).softmax(0)
    gain = (weight * torch.where(inside, proposed, 0.0)).sum()
    if name == "vi":
        return gain
    assert states is not None
    return gain - states.mean()


def _log_acceptance(proposed: Tensor, log_weight: Tensor, states: Tensor) -> Tensor:
    """Return log of the mean of min{1, e^s} over all pairs of proposals and states.

    The logarithm has the same maximum, and a gradient that does not vanish with the rate itself;
    all n m pairs cost n + m densities and have less variance than min(n, m) of them.
    """
    offered = torch.where(proposed.isnan(), -math.inf, proposed)
    s = (offered[:, None] - states).clamp(max=0.0)  # where e^s > 1 the rate is flat
    s = torch.where(offered[:, None] == -math.inf, -math.inf, s)
    return torch.logsumexp(s + log_weight[:, None], dim=(0, 1)) - math.log(len(states))
