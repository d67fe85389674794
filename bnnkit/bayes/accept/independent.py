r"""Independent Metropolis-Hastings: many chains at once, over weights that are known already.

With proposals from :math:`q` and weights :math:`w = p / q` the acceptance ratio of a move from
:math:`y` to :math:`x` is :math:`w(x) / w(y)`: only weights are compared, never positions. So a
position may be anything that tells states apart: a vector, or a row number in a bank of proposals.

References:
    K. Neklyudov, E. Egorov, D. Vetrov, The implicit Metropolis-Hastings algorithm (2019), sec. 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.bayes.accept.rule import log_ratio, metropolis_accept
from bnnkit.bayes.importance import effective_sample_size

__all__ = ["IndependentState", "StepInfo", "acceptance_rate", "init", "step", "weight_ess"]


@dataclass(frozen=True)
class IndependentState:
    """Where chains are.

    Args:
        position: `[chains, ...]`.
        log_weight: log p/q of the positions `[chains]`, up to a constant.
        moves: Accepted proposals of each chain so far `[chains]`, int64.
    """

    position: Tensor
    log_weight: Tensor
    moves: Tensor


@dataclass(frozen=True)
class StepInfo:
    """What one step did.

    Args:
        accepted: bool `[chains]`.
        probability: Acceptance probability of each proposal `[chains]`.
    """

    accepted: Tensor
    probability: Tensor


def init(position: Tensor, log_weight: Tensor) -> IndependentState:
    """Start chains.

    Args:
        position: `[chains, ...]`.
        log_weight: `[chains]`.
    """
    return IndependentState(position, log_weight, torch.zeros_like(log_weight, dtype=torch.int64))


def step(
    state: IndependentState, position: Tensor, log_weight: Tensor, uniform: Tensor
) -> tuple[IndependentState, StepInfo]:
    """Move every chain to its proposal, or leave it where it is.

    Args:
        state: Where the chains are.
        position: Proposals `[chains, ...]` from q.
        log_weight: Their log weights `[chains]`.
        uniform: Numbers in [0, 1) `[chains]`.
    """
    ratio = log_ratio(log_weight, state.log_weight)
    accepted = metropolis_accept(ratio, uniform)
    mask = accepted.view(-1, *[1] * (position.dim() - 1))
    moved = IndependentState(
        torch.where(mask, position, state.position),
        torch.where(accepted, log_weight, state.log_weight),
        state.moves + accepted,
    )
    return moved, StepInfo(accepted, ratio.nan_to_num(nan=-torch.inf).clamp(max=0.0).exp())


def acceptance_rate(current: Tensor, proposed: Tensor) -> float:
    r"""Return the mean acceptance probability over all pairs, :math:`E \min\{1, w(x)/w(y)\}`.

    From exact weights, states of p and proposals of q it is 1 - TV(p(y) q(x), p(x) q(y))
    (Neklyudov et al. 2018, theorem 1). Sorted, so that n + m weights take n log n operations.

    Args:
        current: Log weights of states `[n]`.
        proposed: Log weights of proposals `[m]`; NaN is a rejection.
    """
    start = current.detach().double().nan_to_num(-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    offered = proposed.detach().double()
    offered = offered[~offered.isnan()].sort().values
    below = torch.searchsorted(offered, start)  # proposals of smaller weight; ties are accepted
    sums = torch.logcumsumexp(torch.cat([offered.new_tensor([-torch.inf]), offered]), 0)
    partial = torch.where(below > 0, (sums[below] - start).exp(), 0.0)
    certain = len(offered) - below
    return float(((partial + certain) / max(1, len(proposed))).mean())


def weight_ess(log_weight: Tensor) -> float:
    """Return Kish's effective sample size of weights, (sum w)^2 / sum w^2.

    Args:
        log_weight: `[n]`; NaN counts as a weight of zero.
    """
    return float(effective_sample_size(log_weight.detach().double()))
