r"""The Metropolis-Hastings rule, and what it does with ties and with numbers that are none.

A proposal is accepted with probability :math:`\min\{1, r\}`, so where :math:`\log u < \log r` for
a uniform :math:`u \in [0, 1)`.

References:
    W. K. Hastings, Monte Carlo sampling methods using Markov chains and their applications (1970).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_ratio", "metropolis_accept"]


def log_ratio(proposed: Tensor, current: Tensor) -> Tensor:
    """Return the log acceptance ratio of two log weights.

    Args:
        proposed: Log weights `[...]` of the proposals; NaN where there is none.
        current: Log weights `[...]` of the states; NaN counts as -inf, so that a chain can leave.

    Returns:
        `[...]`; NaN where the proposal's weight is NaN.
    """
    current = current.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    # equal weights are a ratio of one also where both are infinite, as calibrated scores may be
    return torch.where(proposed == current, 0.0, proposed - current)


def metropolis_accept(log_ratio: Tensor, uniform: Tensor) -> Tensor:
    """Decide on proposals.

    Args:
        log_ratio: Log acceptance ratios `[...]`.
        uniform: Numbers in [0, 1) `[...]`.

    Returns:
        bool `[...]`.
    """
    # THE RULE. A ratio of one (a tie) is always accepted, since log u < 0; NaN compares as false,
    # so a score that is no number is a rejection; so is a ratio of zero.
    return uniform.log() < log_ratio
