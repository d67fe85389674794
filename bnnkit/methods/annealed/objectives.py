r"""What a chain or a flow is trained for, per datum; all are maximised.

==========  =====================================================================================
name        objective, at the share u of the training that is done
==========  =====================================================================================
`elbo`      the evidence lower bound of the whole chain
`alpha`     the same, towards the tempered :math:`f_T^{\alpha} f_0^{1 - \alpha}`, α rising to 1
`beta`      the same, with the energy weighed by β, which rises to 1
`avo`       the annealed objectives: each transition towards its own f_t, gradient stopped at
            :math:`z_{t-1}`
`avo+elbo`  `avo` until u reaches the share of the warm-up, then `elbo`: explore, then tighten
==========  =====================================================================================

Flows have the bound alone.

References:
    C.-W. Huang et al., Improving explorability in variational inference with annealed variational
    objectives (2018), section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bnnkit.bayes.annealing import path_log_target, transition_terms, warm_up
from bnnkit.methods.annealed.samplers import Chain, Sampler

__all__ = ["annealed_terms", "objective"]

_FIRST = 0.01  # weight of the energy when the warm-up begins
_LogDensity = Callable[[Tensor], Tensor]


def objective(
    name: str,
    sampler: Sampler,
    log_f: _LogDensity,
    *,
    count: int,
    done: float,
    warm: float,
    alpha: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return what is maximised, a number a datum.

    Args:
        name: As in the table above; any name that is not one of a chain is the bound.
        sampler: What is trained.
        log_f: The unnormalised target, `[*, 2]` to `[*]`.
        count: n, draws.
        done: Share of the training that is done.
        warm: Share of the training that `alpha` and `beta` warm up in, and `avo+elbo` explores in.
        alpha: The path of the annealed objectives, `[T]`.
        generator: Source of random numbers.

    Returns:
        `[n]`, in nats.
    """
    annealed = name == "avo" or (name == "avo+elbo" and done < warm)
    if annealed and isinstance(sampler, Chain):
        return annealed_terms(sampler, log_f, count, alpha, generator).sum(0)
    weight = warm_up(round(1e6 * done), round(1e6 * warm), _FIRST)
    if name == "beta":
        return sampler.draws(count, lambda z: weight * log_f(z), generator).log_weight
    if name == "alpha":
        start = sampler.log_start
        return sampler.draws(
            count, lambda z: weight * log_f(z) + (1 - weight) * start(z), generator
        ).log_weight
    return sampler.draws(count, log_f, generator).log_weight


def annealed_terms(
    chain: Chain,
    log_f: _LogDensity,
    count: int,
    alpha: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the annealed objectives of each transition and datum, `[T, n]`, in nats."""
    path = chain.walk(count, generator, detach=True)
    z = torch.stack(path.z[1:])
    targets = path_log_target(log_f(z), chain.log_start(z), alpha)
    return transition_terms(targets, path.log_forward, path.log_reverse)
