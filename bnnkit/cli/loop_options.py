"""The options of the training loop, shared by `prune` and `train`."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "Compile",
    "Epochs",
    "FreezeBn",
    "LabelSmoothing",
    "Lr",
    "Optimiser",
    "Precision",
    "Resume",
    "TrainBatch",
    "WeightDecay",
]

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
    float,
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
