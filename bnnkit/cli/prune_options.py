"""The options of a pruning run that `prune` and `sweep` share."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from bnnkit.errors import UsageError
from bnnkit.spec.posterior_config import PosteriorConfig
from bnnkit.spec.prune import RecoveryConfig, SbpConfig, parse_scales

__all__ = [
    "METHOD",
    "TARGET",
    "BenchBatch",
    "BenchThreads",
    "Cost",
    "Distill",
    "DistillTemperature",
    "Exclude",
    "Finetune",
    "FinetuneEpochs",
    "Groups",
    "Include",
    "InitLogSigma",
    "KlAnneal",
    "KlScale",
    "KlWarmup",
    "NoOnnx",
    "NoPt2",
    "NoiseLr",
    "ReestimateBn",
    "RoundTo",
    "Threshold",
    "Val",
    "parse_round_to",
    "posterior_configs",
]

METHOD = "Pruning"
TARGET = "Target (without one the evidence decides)"
_RECOVERY = "Recovery"
_OUTPUT = "Output"

Cost = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=TARGET,
        help="What a unit's price is counted in: macs (with a target), params, latency, none "
        "(without one).",
    ),
]
Val = Annotated[
    str,
    typer.Option(
        metavar="SHARE|DATA",
        rich_help_panel=TARGET,
        help="What decides whether --max-error-rise is held: a share of the training part "
        "(auto: as much as the budget needs), or other data by name; never the test part.",
    ),
]
KlScale = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[PATTERN=]X",
        rich_help_panel=METHOD,
        help="Weight of the KL term: 1 is the evidence itself, more removes more. "
        "'layer1.**=10' sets it for some layers; may be repeated.",
    ),
]
KlWarmup = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        rich_help_panel=METHOD,
        help="Share of the noisy epochs over which the KL term grows from 0.",
    ),
]
NoiseLr = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        rich_help_panel=METHOD,
        help="Learning rate of the noise; ten times --lr if absent.",
    ),
]
InitLogSigma = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=-20,
        max=5,
        show_default=f"{SbpConfig.init_log_sigma:g}; {PosteriorConfig.init_log_sigma:g} on weights",
        rich_help_panel=METHOD,
        help="Where the log deviation of the noise starts.",
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        show_default=f"{SbpConfig.snr_threshold:g}; {PosteriorConfig.threshold:g} on weights",
        rich_help_panel=METHOD,
        help="A unit with a smaller signal-to-noise ratio (sbp), or weights with a larger log "
        "noise-to-signal ratio, are closed.",
    ),
]
Groups = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=METHOD,
        help="Which weights share a prior and may close a unit (group-ard, mn, mn-diag): rows, "
        "columns, both, or layer, which closes nothing.",
    ),
]
KlAnneal = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        rich_help_panel=METHOD,
        help="Share of the noisy epochs over which the KL term grows exponentially (posteriors on "
        "weights).",
    ),
]
Finetune = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        min=0,
        max=1,
        show_default=str(RecoveryConfig.finetune),
        rich_help_panel=_RECOVERY,
        help="Share of the epochs, at the end, that train the slim net.",
    ),
]
FinetuneEpochs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        rich_help_panel=_RECOVERY,
        help="The same as a number of epochs.",
    ),
]
Distill = Annotated[
    float,
    typer.Option(
        metavar="WEIGHT",
        rich_help_panel=_RECOVERY,
        help="Weight of the original's answers in the loss, 0 to 1; the labels keep the rest.",
    ),
]
DistillTemperature = Annotated[
    float,
    typer.Option(metavar="T", rich_help_panel=_RECOVERY, help="Temperature of both answers."),
]
ReestimateBn = Annotated[
    int,
    typer.Option(
        metavar="BATCHES",
        rich_help_panel=_RECOVERY,
        help="Measure batch-norm statistics anew on this many batches after the removal.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        rich_help_panel=METHOD,
        help="Layers to prune (* within a part of the name, ** across); may be repeated.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN", rich_help_panel=METHOD, help="Layers to leave; may be repeated."
    ),
]
RoundTo = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        rich_help_panel=METHOD,
        help="Keep widths at multiples of N channels; auto times which multiple pays here.",
    ),
]
BenchBatch = Annotated[
    str,
    typer.Option(
        "--bench-batch", metavar="N,N", rich_help_panel=_OUTPUT, help="Batch sizes to time."
    ),
]
BenchThreads = Annotated[
    str, typer.Option(metavar="N,N", rich_help_panel=_OUTPUT, help="CPU threads to time with.")
]
NoOnnx = Annotated[
    bool, typer.Option("--no-onnx", rich_help_panel=_OUTPUT, help="Write no ONNX file.")
]
NoPt2 = Annotated[
    bool, typer.Option("--no-pt2", rich_help_panel=_OUTPUT, help="Write no .pt2 file.")
]


def posterior_configs(
    *,
    kl_scale: list[str] | None,
    kl_warmup: float,
    kl_anneal: float,
    noise_lr: float | None,
    init_log_sigma: float | None,
    threshold: float | None,
    groups: str,
) -> tuple[SbpConfig, PosteriorConfig]:
    """Return the settings of noise on units and of noise on weights, which share options.

    Raises:
        UsageError: A value has no meaning.
    """
    scale, scales = parse_scales(kl_scale or [])
    sbp, weights = SbpConfig(), PosteriorConfig()
    overall = sbp.kl_scale if scale is None else scale
    if init_log_sigma is not None:
        sbp = replace(sbp, init_log_sigma=init_log_sigma)
        weights = replace(weights, init_log_sigma=init_log_sigma)
    if threshold is not None:
        sbp = replace(sbp, snr_threshold=threshold)
        weights = replace(weights, threshold=threshold)
    return (
        replace(sbp, noise_lr=noise_lr, kl_scale=overall, kl_scales=scales, kl_warmup=kl_warmup),
        replace(weights, noise_lr=noise_lr, kl_scale=overall, kl_anneal=kl_anneal, groups=groups),
    )


def parse_round_to(text: str) -> int:
    """Read `--round-to`; 0 stands for `auto`.

    Raises:
        UsageError: It is neither a count of at least 1 nor `auto`.

    >>> parse_round_to("8"), parse_round_to("auto")
    (8, 0)
    """
    if text == "auto":
        return 0
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise UsageError(
        "Reading --round-to", repr(text), "it is a number of channels, or auto",
        "Use --round-to 8.",
    )  # fmt: skip
