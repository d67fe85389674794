"""How near an approximation came to an energy: its bound, its modes and their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bnnkit.methods.annealed.energies import Energy
from bnnkit.methods.annealed.landscape import Landscape
from bnnkit.methods.annealed.samplers import Sampler

__all__ = ["Assessment", "assess"]

_LEVEL_95 = 1.959964


@dataclass(frozen=True, eq=False)
class Assessment:
    """What was found.

    Args:
        bound: Mean of the log weights, in nats: the bound on log Z.
        error: Half of its 95 % interval.
        gap: log Z by integration less the bound: Kullback-Leibler divergence from the target, for
            a chain in the extended space of its walks.
        log_z: log Z by importance sampling with the same draws.
        ess_share: Effective share of these weights, in [0, 1].
        visited: Modes with a tenth of their weight or more.
        shares: Share of the draws in each mode.
        tv: Total variation of the shares from the weights, in [0, 1].
        z: The draws `[n, 2]`.
    """

    bound: float
    error: float
    gap: float
    log_z: float
    ess_share: float
    visited: int
    shares: list[float]
    tv: float
    z: Tensor


@torch.no_grad()
def assess(
    sampler: Sampler, energy: Energy, truth: Landscape, count: int, generator: torch.Generator
) -> Assessment:
    """Draw from a trained approximation, and hold the draws against the truth.

    Args:
        sampler: The approximation.
        energy: The target.
        truth: Its landscape.
        count: Draws.
        generator: Source of random numbers.
    """
    z, log_weight = sampler.draws(count, energy.log_density, generator)
    weights = log_weight.double()
    bound = float(weights.mean())
    total = torch.logsumexp(weights, 0)
    shares = truth.shares(z)
    return Assessment(
        bound=bound,
        error=_LEVEL_95 * float(weights.std()) / math.sqrt(count),
        gap=truth.log_z - bound,
        log_z=float(total) - math.log(count),
        ess_share=float((2 * total - torch.logsumexp(2 * weights, 0)).exp()) / count,
        visited=truth.visited(shares),
        shares=shares.tolist(),
        tv=truth.tv(shares),
        z=z,
    )
