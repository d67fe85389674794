"""Negative log-likelihood of the labels, in nats an input."""

from __future__ import annotations

from torch import Tensor

__all__ = ["NLL", "nll", "nll_each"]

NLL = "nll"


def nll_each(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label) of each input.

    Args:
        log_probs: `[n, k]`.
        labels: int64 `[n]`.

    Returns:
        float64 `[n]`, nats.
    """
    return -log_probs.double().gather(1, labels[:, None]).squeeze(1)


def nll(log_probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the mean negative log-likelihood in nats."""
    return {NLL: float(nll_each(log_probs, labels).mean())}
