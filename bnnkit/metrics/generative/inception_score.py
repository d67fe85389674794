"""Inception score of class probabilities (Salimans et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from bnnkit.errors import DataError
from bnnkit.metrics.generative.rows import double_rows

__all__ = ["INCEPTION_SCORE", "inception_score"]

INCEPTION_SCORE = "inception_score"


def inception_score(
    probabilities: Tensor, splits: int = 10, generator: torch.Generator | None = None
) -> tuple[float, float]:
    """Return exp of the mean KL(p(y|x) || p(y)) over x in nats, averaged over splits.

    Args:
        probabilities: `[n, k]`, of any classifier.
        splits: Parts of nearly as many rows, each with a p(y) of its own.
        generator: Source of the order that is split; None keeps the rows as they come, which must
            not be sorted.

    Returns:
        Mean and standard deviation over the splits, the latter unbiased (0 for one split). The
        mean is between 1 and k.

    Raises:
        DataError: The rows are no probabilities, or there are fewer rows than splits.

    References:
        Salimans et al., Improved techniques for training GANs (2016), section 4.
    """
    p = double_rows(probabilities, "inception score")
    if (p < 0).any() or not torch.allclose(p.sum(1), p.new_ones(()), rtol=0, atol=1e-4):
        raise DataError(
            "Measuring the inception score",
            "rows that are negative or do not sum to one",
            "it is defined for class probabilities",
        )
    if not 1 <= splits <= len(p):
        raise DataError(
            "Measuring the inception score",
            f"{splits} splits of {len(p)} rows",
            "each split needs a row",
        )
    if generator is not None:
        p = p[torch.randperm(len(p), generator=generator).to(p.device)]
    scores = torch.stack([_score(part) for part in torch.tensor_split(p, splits)])
    return float(scores.mean()), float(scores.std()) if splits > 1 else 0.0


def _score(p: Tensor) -> Tensor:
    mean = p.mean(0)
    return (torch.xlogy(p, p) - torch.xlogy(p, mean)).sum(1).mean().exp()
