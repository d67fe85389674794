"""The options of a pruning run that `prune` and `sweep` share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from bnnkit.cli.output_options import OutputOptions
from bnnkit.errors import UsageError
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.posterior_config import PosteriorConfig
from bnnkit.spec.prune import (
    PruneConfig,
    RecoveryConfig,
    SbpConfig,
    finetune_share,
    parse_scales,
)

__all__ = ["METHOD", "TARGET", "PruneOptions"]

METHOD = "Pruning"
TARGET = "Target (without one the evidence decides)"
_RECOVERY = "Recovery"

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
Noise = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        rich_help_panel=METHOD,
        help="Of sbp: a draw for each example, or one for the batch, folded into the weights.",
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
        show_default="0.25, towards a target 0.6",
        rich_help_panel=_RECOVERY,
        help="Share of the epochs, at the end, that train the slim net; with what learns nothing "
        "all of them do.",
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
    float | None,
    typer.Option(
        metavar="WEIGHT",
        show_default="0.9 towards a target, else 0",
        rich_help_panel=_RECOVERY,
        help="Weight of the original's answers in the loss, 0 to 1; the labels keep the rest.",
    ),
]
DistillTemperature = Annotated[
    float,
    typer.Option(metavar="T", rich_help_panel=_RECOVERY, help="Temperature of both answers."),
]
Reconstruct = Annotated[
    int | None,
    typer.Option(
        metavar="INPUTS",
        min=0,
        show_default="what costs little, at most 1024",
        rich_help_panel=_RECOVERY,
        help="Refit the layers that removal disturbed to what they gave before, by least squares "
        "on this many training inputs; needs no label. 0 leaves their weights.",
    ),
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


@dataclass(frozen=True)
class PruneOptions:
    """How a model is pruned, whatever it aims at."""

    cost: Cost = None
    val: Val = PruneConfig.val
    kl_scale: KlScale = None
    kl_warmup: KlWarmup = SbpConfig.kl_warmup
    noise_lr: NoiseLr = SbpConfig.noise_lr
    noise: Noise = SbpConfig.noise
    init_log_sigma: InitLogSigma = None
    threshold: Threshold = None
    groups: Groups = PosteriorConfig.groups
    kl_anneal: KlAnneal = PosteriorConfig.kl_anneal
    finetune: Finetune = None
    finetune_epochs: FinetuneEpochs = None
    distill: Distill = None
    distill_temperature: DistillTemperature = RecoveryConfig.temperature
    reconstruct: Reconstruct = RecoveryConfig.reconstruct
    reestimate_bn: ReestimateBn = RecoveryConfig.reestimate
    include: Include = None
    exclude: Exclude = None
    round_to: RoundTo = str(PruneConfig.round_to)

    def config(self, train: TrainConfig, output: OutputOptions) -> PruneConfig:
        """Return the settings of a run, without its method and its target.

        Args:
            train: The loop.
            output: What is timed and written.

        Raises:
            UsageError: A value has no meaning.
        """
        sbp, posterior = self._posteriors()
        return PruneConfig(
            train=train,
            sbp=sbp,
            posterior=posterior,
            recovery=RecoveryConfig(
                finetune=finetune_share(self.finetune, self.finetune_epochs, train.epochs),
                distill=self.distill,
                temperature=self.distill_temperature,
                reconstruct=self.reconstruct,
                reestimate=self.reestimate_bn,
            ),
            cost=self.cost,
            val=self.val,
            include=tuple(self.include or ()),
            exclude=tuple(self.exclude or ()),
            round_to=parse_round_to(self.round_to),
            batches=output.batches(),
            threads=output.threads(),
            formats=output.formats(),
        )

    def _posteriors(self) -> tuple[SbpConfig, PosteriorConfig]:
        """Return the settings of noise on units and of noise on weights, which share options."""
        scale, scales = parse_scales(self.kl_scale or [])
        shared: dict[str, Any] = {"noise_lr": self.noise_lr}
        if scale is not None:
            shared["kl_scale"] = scale
        if self.init_log_sigma is not None:
            shared["init_log_sigma"] = self.init_log_sigma
        sbp = SbpConfig(**shared, kl_scales=scales, kl_warmup=self.kl_warmup, noise=self.noise)
        weights = PosteriorConfig(**shared, kl_anneal=self.kl_anneal, groups=self.groups)
        if self.threshold is not None:
            sbp = replace(sbp, snr_threshold=self.threshold)
            weights = replace(weights, threshold=self.threshold)
        return sbp, weights
