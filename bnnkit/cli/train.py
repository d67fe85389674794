"""`bnnkit train`: something to operate on, or more epochs for a checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.groups import takes_groups
from bnnkit.cli.help import example
from bnnkit.cli.loop_options import LoopOptions, Resume
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


@dataclass(frozen=True)
class _LoopOptions(LoopOptions):
    """The loop, at a rate that depends on what is trained."""

    lr: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            rich_help_panel="Training",
            help=f"Peak learning rate of the weights; {TrainConfig.lr:g}, of a GAN 2e-4.",
        ),
    ] = None


@takes_groups
def train(
    model: Annotated[
        Path | None, typer.Argument(help="A checkpoint to continue; fresh weights without one.")
    ] = None,
    *,
    source: opt.ModelOptions,
    data: opt.DataOptions,
    loop: _LoopOptions,
    resume: Resume = False,
    device: opt.Device = TrainConfig.device,
    threads: opt.Threads = TrainConfig.threads,
    seed: opt.Seed = TrainConfig.seed,
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

    examples = data.spec("train", split_seed=seed)
    original = source.spec(model)
    config = loop.config(device=device, threads=threads, seed=seed, start=default_config(original))
    report = run(
        original,
        examples,
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
