"""The gate options of the commands that measure, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.spec.gates import GateOptions

__all__ = ["CHAINS", "QUALITY", "RATIOS", "SPEED", "VERDICT", "GateFlags"]

_PANEL = "Gates (judged by the confidence bound)"

MaxErrorRise = Annotated[
    float | None,
    typer.Option(
        metavar="POINTS", rich_help_panel=_PANEL, help="Most error that may be added, paired."
    ),
]
MaxNllRise = Annotated[
    float | None,
    typer.Option(
        metavar="NATS", rich_help_panel=_PANEL, help="Most log-loss that may be added, paired."
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(metavar="PERCENT", rich_help_panel=_PANEL, help="Highest error."),
]
MaxNll = Annotated[
    float | None,
    typer.Option(metavar="NATS", rich_help_panel=_PANEL, help="Highest log-loss per example."),
]
MaxEce = Annotated[
    float | None,
    typer.Option(metavar="PERCENT", rich_help_panel=_PANEL, help="Highest calibration error."),
]
MaxBrier = Annotated[
    float | None,
    typer.Option(metavar="SCORE", rich_help_panel=_PANEL, help="Highest Brier score."),
]
MinSpeedup = Annotated[
    float | None,
    typer.Option(
        metavar="X", rich_help_panel=_PANEL, help="Least speedup, at the worst measured setting."
    ),
]
SpeedupAt = Annotated[
    str | None,
    typer.Option(
        metavar="KEY=VALUE,...",
        rich_help_panel=_PANEL,
        help="Judge the speedup at these settings only: runtime, device, threads, batch.",
    ),
]
MinMacRatio = Annotated[
    float | None,
    typer.Option(
        metavar="X", rich_help_panel=_PANEL, help="Least original / slim multiply-accumulates."
    ),
]
MinParamRatio = Annotated[
    float | None,
    typer.Option(metavar="X", rich_help_panel=_PANEL, help="Least original / slim parameters."),
]
MinSizeRatio = Annotated[
    float | None,
    typer.Option(metavar="X", rich_help_panel=_PANEL, help="Least original / slim file size."),
]
MaxExportDiff = Annotated[
    float | None,
    typer.Option(
        metavar="RELATIVE",
        rich_help_panel=_PANEL,
        help="Largest relative difference of any exported form.",
    ),
]
MinAcceptance = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        rich_help_panel=_PANEL,
        help="Least share of proposals accepted; needs --max-rhat beside it.",
    ),
]
MinElboGain = Annotated[
    float | None,
    typer.Option(
        metavar="NATS", rich_help_panel=_PANEL, help="Least gain of the bound by refinement."
    ),
]
MinEssPerDraw = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=_PANEL,
        help="Least bulk effective sample size of a draw, at the worst coordinate.",
    ),
]
MaxRhat = Annotated[
    float | None,
    typer.Option(metavar="X", rich_help_panel=_PANEL, help="Largest R-hat of any coordinate."),
]
Strict = Annotated[
    bool,
    typer.Option("--strict", rich_help_panel=_PANEL, help="Exit 5 where a gate is inconclusive."),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", rich_help_panel=_PANEL, help="Write the verdicts as JUnit XML too."
    ),
]

# Fields of `GateFlags`, for the commands that measure only some of their figures.
QUALITY = ("max_error_rise", "max_nll_rise", "max_error", "max_nll", "max_ece", "max_brier")
SPEED = ("min_speedup", "speedup_at")
RATIOS = ("min_mac_ratio", "min_param_ratio", "min_size_ratio")
CHAINS = ("min_ess_per_draw", "max_rhat", "min_acceptance")
VERDICT = ("strict", "junit")


@dataclass(frozen=True)
class GateFlags:
    """Every gate, and what becomes of the verdicts."""

    max_error_rise: MaxErrorRise = None
    max_nll_rise: MaxNllRise = None
    max_error: MaxError = None
    max_nll: MaxNll = None
    max_ece: MaxEce = None
    max_brier: MaxBrier = None
    min_speedup: MinSpeedup = None
    speedup_at: SpeedupAt = None
    min_mac_ratio: MinMacRatio = None
    min_param_ratio: MinParamRatio = None
    min_size_ratio: MinSizeRatio = None
    max_export_diff: MaxExportDiff = None
    min_elbo_gain: MinElboGain = None
    min_ess_per_draw: MinEssPerDraw = None
    max_rhat: MaxRhat = None
    min_acceptance: MinAcceptance = None
    strict: Strict = False
    junit: Junit = None

    def options(self) -> GateOptions:
        """Return the limits.

        Raises:
            UsageError: A limit has no meaning.
        """
        limits = {name: value for name, value in vars(self).items() if name != "junit"}
        return GateOptions(**limits)
