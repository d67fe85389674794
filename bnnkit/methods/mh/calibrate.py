"""What turns a discriminator's logits into log density ratios: a slope, or a monotone map.

Chains compare differences of log p/q, so an intercept cancels: only slope and shape matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnnkit.errors import UsageError

__all__ = ["isotonic_knots", "platt_slope"]

_EDGE = 1e-4
"""Probabilities are kept this far from 0 and 1: a finite sample knows no certainty."""


def platt_slope(real: Tensor, fake: Tensor) -> float:
    """Fit the slope of the logit to held-out scores (Platt 1999); the intercept cancels.

    Args:
        real: Logits of held-out real images `[n]`.
        fake: Logits of generated images `[m]`.

    Raises:
        UsageError: The slope is not positive: the scores point the wrong way.
    """
    from sklearn.linear_model import LogisticRegression

    x, y, weights = _labelled(real, fake)
    model = LogisticRegression(C=1e6).fit(x[:, None], y, sample_weight=weights)
    slope = float(model.coef_[0, 0])
    if slope <= 0:
        raise UsageError(
            "Calibrating the discriminator",
            f"a slope of {slope:.3g}",
            "it gives generated images higher scores than real ones",
            "Check which way its output goes, or use --calibrate temperature.",
        )
    return slope


def isotonic_knots(real: Tensor, fake: Tensor) -> Tensor:
    """Fit a monotone map of the logit to held-out scores; equal scores stay equal.

    Args:
        real: Logits of held-out real images `[n]`.
        fake: Logits of generated images `[m]`.

    Returns:
        Scores and the logits that they are mapped to `[2, m]`, to be joined by straight lines.
    """
    from sklearn.isotonic import IsotonicRegression

    x, y, weights = _labelled(real, fake)
    model = IsotonicRegression(out_of_bounds="clip").fit(x, y, sample_weight=weights)
    at, p = (torch.from_numpy(v).double() for v in (model.X_thresholds_, model.y_thresholds_))
    if len(at) < 2:  # one level: no image is preferred
        at, p = at.repeat(2), p.repeat(2)
    return torch.stack([at, torch.logit(p.clamp(_EDGE, 1 - _EDGE))])


def _labelled(real: Tensor, fake: Tensor) -> tuple[Any, Any, Any]:
    """Return scores, labels and weights that give both sides the same say, as numpy arrays."""
    real, fake = (s[~s.isnan()].double().cpu() for s in (real, fake))
    x = torch.cat([real, fake])
    y = torch.cat([torch.ones(len(real)), torch.zeros(len(fake))])
    weights = torch.where(y > 0, len(x) / (2 * len(real)), len(x) / (2 * len(fake)))
    return x.numpy(), y.numpy(), weights.numpy()
