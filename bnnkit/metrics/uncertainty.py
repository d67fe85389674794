"""How unsure a prediction is: its entropy, and the part that its members disagree about."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ENTROPY", "MUTUAL_INFORMATION", "entropy_each", "mutual_information_each"]

ENTROPY = "entropy"
MUTUAL_INFORMATION = "mutual_information"


def entropy_each(log_probs: Tensor) -> Tensor:
    """Return the entropy -sum_k p_k log p_k of each prediction (Shannon, 1948).

    Args:
        log_probs: `[n, k]`; `-inf` is a class without probability.

    Returns:
        float64 `[n]`, nats, in [0, log k].

    >>> entropy_each(torch.tensor([[0.0, -torch.inf], [0.5, 0.5]]).double().log_softmax(1))
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    # finite, so that 0 log 0 is 0; and a mean of certain members may round to just above log 1
    x = log_probs.double().clamp(torch.finfo(torch.float64).min, 0.0)
    return (x.exp() * -x).sum(1)


def mutual_information_each(log_mean: Tensor, expected_entropy: Tensor) -> Tensor:
    """Return the mutual information of the class and the sampled model, H(E p) - E H(p).

    Houlsby et al., 2011, "Bayesian active learning for classification and preference learning",
    eq. 2.

    Args:
        log_mean: Log of the mean probabilities over the members `[n, k]`.
        expected_entropy: Mean entropy of the members `[n]`, nats.

    Returns:
        float64 `[n]`, nats, 0 or more.
    """
    # Jensen's inequality holds for real numbers: members that agree may round to below zero.
    return (entropy_each(log_mean) - expected_entropy.double()).clamp_min(0.0)
