"""The gate options that `prune`, `eval`, `bench` and `gate` share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Junit",
    "MaxBrier",
    "MaxEce",
    "MaxError",
    "MaxErrorRise",
    "MaxExportDiff",
    "MaxNll",
    "MaxNllRise",
    "MaxRhat",
    "MinAcceptance",
    "MinEssPerDraw",
    "MinMacRatio",
    "MinParamRatio",
    "MinSizeRatio",
    "MinSpeedup",
    "SpeedupAt",
    "Strict",
]

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
