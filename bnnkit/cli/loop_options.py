"""The options of the training loop, shared by `prune`, `sweep` and `train`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from bnnkit.spec.config import TrainConfig

__all__ = ["LoopOptions", "Resume"]

_PANEL = "Training"

Epochs = Annotated[
    int, typer.Option(metavar="N", min=0, rich_help_panel=_PANEL, help="Passes over the data.")
]
TrainBatch = Annotated[
    int,
    typer.Option(
        "--batch-size", metavar="N", min=2, rich_help_panel=_PANEL, help="Examples per step."
    ),
]
Lr = Annotated[
    float | None,
    typer.Option(
        metavar="RATE", rich_help_panel=_PANEL, help="Peak learning rate of the weights."
    ),
]
Optimiser = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="adam, or sgd with momentum.")
]
WeightDecay = Annotated[
    float,
    typer.Option(metavar="X", rich_help_panel=_PANEL, help="Decoupled decay of weight matrices."),
]
LabelSmoothing = Annotated[
    float,
    typer.Option(
        metavar="X", min=0, max=1, rich_help_panel=_PANEL,
        help="Share of the label spread over the other classes.",
    ),
]  # fmt: skip
FreezeBn = Annotated[
    bool,
    typer.Option(
        "--freeze-bn", rich_help_panel=_PANEL, help="Leave batch-norm statistics as they are."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME", rich_help_panel=_PANEL,
        help="fp32, bf16, or auto: bf16 where the device has units for it.",
    ),
]  # fmt: skip
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", rich_help_panel=_PANEL,
        help="Train through torch.compile what has no noise: the slim net, the original.",
    ),
]  # fmt: skip
Resume = Annotated[
    bool,
    typer.Option("--resume", rich_help_panel=_PANEL, help="Continue the unfinished run in --out."),
]


@dataclass(frozen=True)
class LoopOptions:
    """How the training loop runs: fields of `TrainConfig`, by their names."""

    epochs: Epochs = TrainConfig.epochs
    batch_size: TrainBatch = TrainConfig.batch_size
    lr: Lr = TrainConfig.lr
    optimiser: Optimiser = TrainConfig.optimiser
    weight_decay: WeightDecay = TrainConfig.weight_decay
    label_smoothing: LabelSmoothing = TrainConfig.label_smoothing
    freeze_bn: FreezeBn = TrainConfig.freeze_bn
    compile: Compile = TrainConfig.compile
    precision: Precision = TrainConfig.precision

    def config(
        self,
        *,
        device: str,
        threads: int | None,
        seed: int = TrainConfig.seed,
        start: TrainConfig = TrainConfig(),
    ) -> TrainConfig:
        """Return the settings of the loop.

        Args:
            device: `cpu`, `cuda` or `auto`.
            threads: CPU threads; None takes torch's own choice.
            seed: Seed of order, augmentation, noise and dropout.
            start: Settings whose rate stays where `lr` is None.

        Raises:
            UsageError: A value has no meaning.
        """
        stated = {name: value for name, value in vars(self).items() if value is not None}
        return replace(start, **stated, device=device, threads=threads, seed=seed)
