r"""What importance weights are worth.

.. math:: \mathrm{ESS} = \frac{(\sum_s w_s)^2}{\sum_s w_s^2} \in [1, S]

is the number of draws of the target itself whose mean of a bounded function would be as noisy.

References:
    Kong, A note on importance sampling using standardized weights (1992), sec. 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["effective_sample_size"]


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """Return the effective number of weighted draws (Kong 1992), whatever the scale of weights.

    Args:
        log_weight: `[s, *]`, of s draws; NaN counts as a weight of zero.

    Returns:
        `[*]`, from 1 to s; 0 where all weights are zero.

    Example:
        >>> effective_sample_size(torch.tensor([[0.0, 5.0], [0.0, -torch.inf]]))
        tensor([2., 1.])
    """
    w = log_weight.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    some = w > -torch.inf
    shifted = torch.where(some, w - w.amax(0), -torch.inf)  # the largest weight becomes 1
    # infinite weights, of which the difference is no number, count alike and all others nothing
    shifted = torch.where(w == torch.inf, 0.0, shifted)
    weight = shifted.exp()
    ess = weight.sum(0).square() / weight.square().sum(0)
    return torch.where(some.any(0), ess, 0.0)
