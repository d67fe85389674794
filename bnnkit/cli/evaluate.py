"""`bnnkit eval MODEL --data DATA`: how good a model is, alone or against another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import QUALITY, RATIOS, VERDICT, GateFlags
from bnnkit.cli.groups import only, takes_groups, without
from bnnkit.cli.help import example
from bnnkit.errors import UsageError

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = example(
    "bnnkit eval digits-demo/slim --data digits --max-error 5 --max-ece 3",
    """
bnnkit eval: digits-demo/slim

Note: no test part: 20% of each class held out, seed 0

Measured
                                   value      n
  error                 1.7 % [0.8, 3.6]    359
  NLL          0.075 nats [0.044, 0.106]    359
  ECE                2.92 % [2.10, 3.83]    359
  Brier score       0.029 [0.013, 0.044]    359
  parameters                       1,241  exact
  MACs                       18.6 k MACs  exact
  file size                      8.78 kB  exact
  Brackets: 95% intervals.

Gates
  gate       limit             measured  verdict
  max-error  ≤ 5 %     1.7 % [0.8, 3.6]  pass
  max-ece    ≤ 3 %  2.92 % [2.10, 3.83]  inconclusive
""",
    more="'bnnkit demo' makes this model; --against digits-demo/original compares the two.",
)


@takes_groups
def evaluate(
    model: Annotated[
        Path, typer.Argument(help="Checkpoint, run directory, .pt2, .onnx or TorchScript.")
    ],
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            rich_help_panel="Model",
            help="Reference model, in any form: both answer the same inputs, and the change of "
            "each figure gets its paired interval.",
        ),
    ] = None,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArg = None,
    against_arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Model",
            help="Architecture of --against; that of --arch where it is left out.",
        ),
    ] = None,
    against_arch_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel="Model",
            help="Argument of --against-arch; may be repeated.",
        ),
    ] = None,
    state_key: opt.StateKey = None,
    trust_pickle: opt.TrustPickle = False,
    input_shape: opt.InputShape = None,
    *,
    data: Annotated[opt.DataOptions, without("augment")],
    batch_size: opt.BatchSize = 256,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    seed: opt.Seed = 0,
    report: opt.ReportFile = None,
    as_json: opt.AsJson = False,
    gates: Annotated[GateFlags, only(*QUALITY, *RATIOS, *VERDICT)],
) -> None:
    """Measure error, NLL, calibration error and Brier score, with intervals.

    The figures are of the test part of the data; where the data have none, a fifth of each class
    is held out by --seed. With --against the two models are compared input by input.
    """
    examples = data.spec("eval", split_seed=seed, input_shape=input_shape)
    limits = gates.options()
    if against is None and (against_arch or against_arch_arg):
        raise UsageError(
            "Evaluating a model",
            "--against-arch without --against",
            "there is no reference that it could be of",
            "Add --against FILE.",
        )
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.evaluation import evaluate as measure
    from bnnkit.run.gates import refuse_unmeasured

    refuse_unmeasured(limits, {"slim"} | ({"paired", "ratios"} if against else set()))
    named = opt.ModelOptions(arch, arch_arg, state_key, trust_pickle, input_shape)
    reference = opt.ModelOptions(
        arch=against_arch or arch,
        arch_arg=against_arch_arg if against_arch or against_arch_arg else arch_arg,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
    )
    measured = measure(
        named.spec(model),
        examples,
        against=against and reference.spec(against),
        batch_size=batch_size,
        device=device,
        threads=threads,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(measured, limits, as_json=as_json, report_file=report, junit=gates.junit)
