"""Metrics: one file each, pure functions of predictions, arithmetic in float64."""

from bnnkit.metrics.brier import BRIER, brier, brier_each
from bnnkit.metrics.ece import ECE, ECE_EQUAL_MASS, binned_gap, calibration_each, ece
from bnnkit.metrics.error import ERROR, error, error_each
from bnnkit.metrics.interval import bootstrap_interval, mean_interval, wilson_interval
from bnnkit.metrics.nll import NLL, nll, nll_each
from bnnkit.metrics.outputs import log_probabilities
from bnnkit.metrics.paired import paired_difference

__all__ = [
    "BRIER",
    "ECE",
    "ECE_EQUAL_MASS",
    "ERROR",
    "NLL",
    "binned_gap",
    "bootstrap_interval",
    "brier",
    "brier_each",
    "calibration_each",
    "ece",
    "error",
    "error_each",
    "log_probabilities",
    "mean_interval",
    "nll",
    "nll_each",
    "paired_difference",
    "wilson_interval",
]
