"""`bnnkit train`: something to operate on, or more epochs for a checkpoint."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import loop_options as loop
from bnnkit.cli import options as opt
from bnnkit.cli.help import example
from bnnkit.spec.config import TrainConfig

__all__ = ["EXAMPLE", "train"]

EXAMPLE = example(
    "bnnkit train --arch bnnkit:digits-cnn --data digits --epochs 6 --batch-size 64 --lr 3e-3",
    """
bnnkit train: bnnkit:digits-cnn

Training
         epoch     loss           NLL    error
  first      1   0.8537   0.8537 nats  21.07 %
  best       4  0.01938  0.01938 nats      0 %
  last       6  0.01232  0.01232 nats      0 %
  6 epochs, 5 s.

Measured
                                   value      n
  error              0.56 % [0.15, 2.01]    359
  NLL          0.038 nats [0.009, 0.067]    359
  ECE                1.71 % [0.91, 2.55]    359
  Brier score       0.013 [0.001, 0.025]    359
  parameters                      58,474  exact
  MACs                       1.79 M MACs  exact
  file size                       237 kB  exact
  Brackets: 95% intervals.

Run directory: digits-cnn-train
""",
)
_DEFAULT = TrainConfig()


def train(
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint to continue; fresh weights without one.")
    ] = None,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArg = None,
    state_key: opt.StateKey = None,
    trust_pickle: opt.TrustPickle = False,
    input_shape: opt.InputShape = None,
    data: opt.Data = None,
    data_root: opt.DataRoot = None,
    download: opt.Download = False,
    mean: opt.Mean = None,
    std: opt.Std = None,
    normalize: opt.Normalize = None,
    classes: opt.Classes = None,
    limit: opt.Limit = None,
    augment: opt.Augment = "auto",
    epochs: loop.Epochs = _DEFAULT.epochs,
    batch_size: loop.TrainBatch = _DEFAULT.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            rich_help_panel="Training",
            help=f"Peak learning rate of the weights; {_DEFAULT.lr:g}, of a GAN 2e-4.",
        ),
    ] = None,
    optimiser: loop.Optimiser = _DEFAULT.optimiser,
    weight_decay: loop.WeightDecay = _DEFAULT.weight_decay,
    label_smoothing: loop.LabelSmoothing = _DEFAULT.label_smoothing,
    freeze_bn: loop.FreezeBn = _DEFAULT.freeze_bn,
    compile_: loop.Compile = _DEFAULT.compile,
    precision: loop.Precision = _DEFAULT.precision,
    resume: loop.Resume = False,
    device: opt.Device = _DEFAULT.device,
    threads: opt.Threads = _DEFAULT.threads,
    seed: opt.Seed = _DEFAULT.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train a reference architecture on named data, or fine-tune a checkpoint.

    Classifiers are trained by cross-entropy, generators of the reference architectures against a
    discriminator, and autoencoders by their evidence lower bound.
    """
    from bnnkit.cli.console import print_json, progress_reporter, stdout_console
    from bnnkit.cli.tables import draw, render
    from bnnkit.run.reporting.generative_digest import generator_table
    from bnnkit.run.train import default_config
    from bnnkit.run.train import train as run

    opt.require_data(data, "train")
    spec = opt.model_spec(
        model,
        arch=arch,
        arch_arg=arch_arg,
        state_key=state_key,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
    )
    config = replace(
        default_config(spec),
        epochs=epochs,
        batch_size=batch_size,
        **({} if lr is None else {"lr": lr}),
        optimiser=optimiser,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        freeze_bn=freeze_bn,
        compile=compile_,
        precision=precision,
        device=device,
        threads=threads,
        seed=seed,
    )
    report = run(
        spec,
        opt.data_spec(
            str(data),
            root=data_root,
            download=download,
            mean=mean,
            std=std,
            normalize=normalize,
            classes=classes,
            limit=limit,
            augment=augment,
            split_seed=seed,
        ),
        config,
        out=out,
        resume=resume,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    if as_json:
        print_json(report.to_dict())
    else:
        console = stdout_console()
        render(report, console)
        if (table := generator_table(report.to_dict())) is not None:
            draw(table, console)
        console.print(f"Run directory: {report.sections['out']}")
