"""The weight of the KL term: given, warmed up, or found by dual ascent on a price."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["DualAscent", "KlScale", "noise_rate"]

_UPDATES, _STEPS = 60, 5
"""Updates over one training phase, and the fewest steps between two: each looks at a decision that
has had time to move."""

_TRAVEL = 6.0
"""How far log σ must be able to move in a phase, from any start to noise or to none."""

_MOST_RATE = 0.1

_INTEGRAL, _PROPORTIONAL = 2.0, 10.0
"""Growth of log λ, an update, with the excess, and with its change since the last update.

A gate needs many steps to follow its weight; without the second term, which brakes while the cost
falls faster than planned, the ascent swings over orders of magnitude.
"""

_LONGEST = 0.9
"""Share of the phase after which the target should be reached; the rest lets it settle."""

_FASTEST = 0.7
"""Most that log λ moves in one update: λ doubles or halves."""

_RANGE = (-3.0, 13.0)
"""Of log λ: no net needed less than a tenth of the evidence or more than 1e5 times it."""


class KlScale(nn.Module):
    """A factor of the given weights, grown from 0 to 1 over a share of the training.

    Args:
        warmup: Share of the training over which it grows.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        super().__init__()
        self.warmup = warmup
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float64))

    def forward(self, progress: float) -> float:
        """Return the factor at a share of the training."""
        grown = min(1.0, progress / self.warmup) if self.warmup > 0 else 1.0
        return grown * float(self.scale)


class DualAscent(KlScale):
    r"""A factor that is raised while the decision costs more than planned, and lowered else.

    The constrained problem is $\min -\mathrm{ELBO}$ subject to $c(\text{decision}) \le c^*$; its
    multiplier is the weight of the KL term. The ascent works on log λ, since the weight that a net
    needs lies anywhere over five orders of magnitude, and against a planned path from 1 to $c^*$:
    a multiplier that integrates the whole gap from the start would wind up and close what the
    data had no time to defend.

    Args:
        target: c*, the share of the full cost to reach.
        share: Returns the share that the present decision costs.
        steps: Optimiser steps of the phase.
    """

    def __init__(self, target: float, share: Callable[[], float], steps: int) -> None:
        super().__init__()
        self.target = target
        self._share = share
        self._updates = max(1, min(_UPDATES, steps // _STEPS))
        self.next_at: Tensor
        self.excess: Tensor
        self.register_buffer("next_at", torch.tensor(0.0, dtype=torch.float64))
        self.register_buffer("excess", torch.tensor(0.0, dtype=torch.float64))

    def planned(self, progress: float) -> float:
        """Return the share that the decision should cost at a share of the training."""
        return 1 - (1 - self.target) * min(1.0, progress / _LONGEST)

    def forward(self, progress: float) -> float:
        """Return the factor, after an ascent step where one is due."""
        if progress >= float(self.next_at):
            excess = self._share() - self.planned(progress)
            growth = _INTEGRAL * excess + _PROPORTIONAL * (excess - float(self.excess))
            growth = min(max(growth, -_FASTEST), _FASTEST)
            log_scale = math.log(float(self.scale)) + growth
            self.scale.fill_(math.exp(min(max(log_scale, _RANGE[0]), _RANGE[1])))
            self.excess.fill_(excess)
            self.next_at.fill_(progress + 1 / self._updates)
        return float(self.scale)


def noise_rate(lr: float, steps: int | None) -> float:
    """Return the learning rate of a posterior's log σ where none is stated.

    Ten times that of the weights; more where there is a target and so few steps that Adam, whose
    steps are as long as its rate, could not bring log σ to either end of its range. The rate
    decays linearly, which halves the way.

    Args:
        lr: Of the weights.
        steps: That there are to reach a target; None where there is none.

    >>> noise_rate(1e-3, None), noise_rate(1e-3, 160)
    (0.01, 0.075)
    """
    least = 0.0 if not steps else min(_MOST_RATE, 2 * _TRAVEL / steps)
    return max(10 * lr, least)
