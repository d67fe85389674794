"""What a model answers, and its log probabilities in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bnnkit.errors import DataError

__all__ = ["kind_of_outputs", "log_probabilities"]

_FLOOR = torch.finfo(torch.float32).tiny


def kind_of_outputs(outputs: Tensor) -> str:
    """Tell what a classifier answers.

    Rows that are nowhere negative and sum to one are probabilities; anything else is logits, of
    which log-probabilities are some. One number an input is a binary model: the probability of
    class 1 where all lie in [0, 1], else its logit.

    Args:
        outputs: `[n, k]` (trailing axes of length 1 are dropped), `[n]` or `[n, 1]`, any float
            type. Pass many at once: the kind is decided over all rows.

    Returns:
        One of `bnnkit.spec.noise.OUTPUTS`.

    Raises:
        DataError: The shape is another.
    """
    x = _rows(outputs)
    if x.shape[1] == 1:
        inside = bool(((x >= 0) & (x <= 1)).all())
        return "binary-probability" if inside else "binary-logit"
    # half precision rounds each probability to about three digits
    tolerance = 1e-4 if outputs.dtype in (torch.float32, torch.float64) else 2e-2
    sums_to_one = bool(((x.sum(1) - 1).abs() <= tolerance).all())
    return "probabilities" if sums_to_one and bool((x >= 0).all()) else "logits"


def log_probabilities(outputs: Tensor) -> Tensor:
    """Turn logits, log-probabilities or probabilities into normalised log-probabilities.

    Args:
        outputs: `[n, k]` (trailing axes of length 1 are dropped), `[n]` or `[n, 1]`, any float
            type. Pass all outputs of a model at once: `kind_of_outputs` reads all rows.

    Returns:
        float64 `[n, k]`, rows of `exp` sum to one; `[n, 2]` for binary outputs.

    Raises:
        DataError: The shape is another, or there is a value that is NaN or +inf.
    """
    kind, x = kind_of_outputs(outputs), _rows(outputs)
    if bad := int((x.isnan() | (x == torch.inf)).any(1).sum()):
        raise DataError(
            "Reading class scores",
            f"not a finite number for {bad} of {len(x)} inputs",
            "these outputs have no class",
            "Check the weights and the normalisation of the inputs.",
        )
    if kind == "binary-logit":
        return torch.cat([F.logsigmoid(-x), F.logsigmoid(x)], dim=1)
    if kind == "binary-probability":
        x = torch.cat([1 - x, x], dim=1)
    return F.log_softmax(x if kind == "logits" else x.clamp_min(_FLOOR).log(), dim=1)


def _rows(outputs: Tensor) -> Tensor:
    """Return outputs as float64 `[n, k]`, one row an input."""
    per_input = outputs.numel() // max(1, len(outputs)) if outputs.dim() else 0
    if not per_input or (outputs.dim() > 1 and outputs.shape[1] != per_input):
        raise DataError(
            "Reading class scores",
            f"outputs of shape {list(outputs.shape)}",
            "a classifier gives one row of scores an input",
        )
    return outputs.detach().double().reshape(len(outputs), per_input)
