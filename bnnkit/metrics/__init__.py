"""Metrics: one file each, pure functions of predictions, arithmetic in float64."""

from bnnkit.metrics.brier import BRIER, brier, brier_each
from bnnkit.metrics.detection import (
    AUPR,
    AUROC,
    FPR95,
    auroc_interval,
    detection,
    paired_auroc_difference,
)
from bnnkit.metrics.ece import (
    ECE,
    ECE_EQUAL_MASS,
    binned_gap,
    calibration_each,
    ece,
    equal_mass_gap,
)
from bnnkit.metrics.error import ERROR, error, error_each
from bnnkit.metrics.interval import (
    bootstrap_interval,
    mean_interval,
    sum_interval,
    wilson_interval,
)
from bnnkit.metrics.nll import NLL, nll, nll_each
from bnnkit.metrics.outputs import log_probabilities
from bnnkit.metrics.paired import paired_difference
from bnnkit.metrics.reliability import Reliability, reliability
from bnnkit.metrics.risk_coverage import AURC, aurc, risk_coverage, thin
from bnnkit.metrics.uncertainty import (
    ENTROPY,
    MUTUAL_INFORMATION,
    entropy_each,
    mutual_information_each,
)

__all__ = [
    "AUPR",
    "AURC",
    "AUROC",
    "BRIER",
    "ECE",
    "ECE_EQUAL_MASS",
    "ENTROPY",
    "ERROR",
    "FPR95",
    "MUTUAL_INFORMATION",
    "NLL",
    "Reliability",
    "aurc",
    "auroc_interval",
    "binned_gap",
    "bootstrap_interval",
    "brier",
    "brier_each",
    "calibration_each",
    "detection",
    "ece",
    "entropy_each",
    "equal_mass_gap",
    "error",
    "error_each",
    "log_probabilities",
    "mean_interval",
    "mutual_information_each",
    "nll",
    "nll_each",
    "paired_auroc_difference",
    "paired_difference",
    "reliability",
    "risk_coverage",
    "sum_interval",
    "thin",
    "wilson_interval",
]
