"""From what a model answers to log probabilities, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import DataError

__all__ = ["log_probabilities"]

_FLOOR = torch.finfo(torch.float32).tiny


def log_probabilities(outputs: Tensor) -> Tensor:
    """Turn logits, log-probabilities or probabilities into normalised log-probabilities.

    Rows that are nowhere negative and sum to one are probabilities; anything else goes through
    log-softmax, which leaves log-probabilities as they are. One number an input is a binary model:
    the probability of class 1 where all lie in [0, 1], else its logit.

    Args:
        outputs: `[n, k]` (trailing axes of length 1 are dropped), `[n]` or `[n, 1]`, any float
            type. Pass all outputs of a model at once: the kind is decided over all rows.

    Returns:
        float64 `[n, k]`, rows of `exp` sum to one; `[n, 2]` for binary outputs.

    Raises:
        DataError: The shape is another, or there is a value that is NaN or +inf.
    """
    if outputs.dim() > 2 and outputs.shape[1] == outputs[0].numel():
        outputs = outputs.flatten(1)
    if outputs.dim() not in (1, 2) or not outputs.numel():
        raise DataError(
            "Reading class scores",
            f"outputs of shape {list(outputs.shape)}",
            "a classifier gives one row of scores an input",
        )
    x = outputs.detach().double()
    if bad := int((x.isnan() | (x == torch.inf)).reshape(len(x), -1).any(1).sum()):
        raise DataError(
            "Reading class scores",
            f"not a finite number for {bad} of {len(x)} inputs",
            "these outputs have no class",
            "Check the weights and the normalisation of the inputs.",
        )
    if x.dim() == 1 or x.shape[1] == 1:
        return _binary(x.flatten())
    # half precision rounds each probability to about three digits
    tolerance = 1e-4 if outputs.dtype in (torch.float32, torch.float64) else 2e-2
    if (x >= 0).all() and ((x.sum(1) - 1).abs() <= tolerance).all():
        x = x.clamp_min(_FLOOR).log()
    return F.log_softmax(x, dim=1)


def _binary(x: Tensor) -> Tensor:
    if ((x >= 0) & (x <= 1)).all():
        both = torch.stack([1 - x, x], dim=1).clamp_min(_FLOOR).log()
        return F.log_softmax(both, dim=1)
    return torch.stack([F.logsigmoid(-x), F.logsigmoid(x)], dim=1)
