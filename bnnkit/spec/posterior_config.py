"""Defaults of the methods that put a posterior on weights: SparseVD, ARD, matrix normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnnkit.errors import did_you_mean
from bnnkit.spec.config import positive, refused, share_of_one

__all__ = ["GROUPS", "LOG_SIGMA_RANGE", "PosteriorConfig"]

GROUPS = ("rows", "columns", "both", "layer")
"""Which weights share a prior precision, and which groups can close a unit.

A layer is the matrix (inputs, outputs): a row is what reads one input, a column is one filter.
`layer` learns one prior variance for the whole layer and closes nothing.
"""

LOG_SIGMA_RANGE = (-20.0, 5.0)
"""Where log σ of a weight is kept: every term of the objective is finite there in float32."""


@dataclass(frozen=True)
class PosteriorConfig:
    """Gaussian posteriors of weights whose means are the model's own weights.

    Args:
        noise_lr: Learning rate of the variances; None takes ten times the weights' rate.
        kl_scale: Weight of the KL term; 1 is the evidence itself.
        kl_anneal: Share of the epochs over which the KL term's weight grows exponentially to
            `kl_scale`; 0 starts with all of it.
        kl_start: Factor that this growth starts from.
        init_log_sigma: Where log σ of every weight starts.
        threshold: A weight or group with a larger log α, noise over signal, is closed.
        groups: `rows`, `columns`, `both` or `layer`; see `GROUPS`.
        shared_over_kernel: One precision for an input channel of a convolution (what can be
            removed), or one for each of its rows, kernel position by kernel position.

    Raises:
        UsageError: A value has no meaning.
    """

    noise_lr: float | None = None
    kl_scale: float = 1.0
    kl_anneal: float = 0.0
    kl_start: float = 1e-3
    init_log_sigma: float = -5.0
    threshold: float = 3.0
    groups: str = "both"
    shared_over_kernel: bool = True

    def __post_init__(self) -> None:
        if self.noise_lr is not None:
            positive("--noise-lr", self.noise_lr)
        share_of_one("--kl-anneal", self.kl_anneal)
        low, high = LOG_SIGMA_RANGE
        for option, value, holds, why in (
            ("--kl-scale", self.kl_scale, 0 <= self.kl_scale < math.inf, "it must be 0 or more"),
            ("--kl-start", self.kl_start, 0 < self.kl_start <= 1, "it must be in (0, 1]"),
            (
                "--init-log-sigma",
                self.init_log_sigma,
                low <= self.init_log_sigma <= high,
                f"it must be between {low:g} and {high:g}",
            ),
            (
                "--threshold",
                self.threshold,
                math.isfinite(self.threshold),
                "it must be finite",
            ),
        ):
            if not holds:
                raise refused(option, value, why)
        if self.groups not in GROUPS:
            hint = did_you_mean(self.groups, GROUPS)
            raise refused("--groups", self.groups, "it is not known", hint)
