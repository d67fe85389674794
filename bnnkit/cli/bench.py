"""`bnnkit bench A [B ...]`: the latency of models in any form, against the first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import SPEED, VERDICT, GateFlags
from bnnkit.cli.groups import only, takes_groups
from bnnkit.cli.help import example
from bnnkit.errors import UsageError

__all__ = ["EXAMPLE", "bench"]

EXAMPLE = example(
    "bnnkit bench digits-demo/original digits-demo/slim --min-speedup 1.2 --speedup-at batch=32",
    """
Latency
  setting                                 original              slim         speedup    n
  torch, cpu, 1 thread, batch 1          0.2363 ms         0.1174 ms          2.013x  194
                                  [0.2330, 0.2388]  [0.1167, 0.1188]  [1.974, 2.035]
  torch, cpu, 1 thread, batch 32          3.291 ms         0.5510 ms           5.97x   89
                                    [3.271, 3.345]  [0.5448, 0.5606]    [5.87, 6.08]
  Brackets: 95% intervals.

Gates
  gate          limit            measured  verdict  note
  min-speedup  ≥ 1.2x  5.97x [5.87, 6.08]  pass     torch, cpu, 1 thread, batch 32
""",
    more="'bnnkit demo' makes these models; add digits-demo/slim/model.onnx to see onnxruntime.",
)


@takes_groups
def bench(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Checkpoints, run directories, .pt2, .onnx or TorchScript files; the first is "
            "the reference. The same one twice shows the noise of the machine."
        ),
    ],
    *,
    source: opt.ModelOptions,
    batch: Annotated[
        str, typer.Option(metavar="N,N", rich_help_panel="Run", help="Batch sizes.")
    ] = "1,32",
    threads: Annotated[
        str, typer.Option(metavar="N,N", rich_help_panel="Run", help="CPU thread counts.")
    ] = "1",
    device: opt.Device = "auto",
    seconds: Annotated[
        float,
        typer.Option(min=0.1, rich_help_panel="Run", help="Most time for each row of the table."),
    ] = 3.0,
    seed: opt.Seed = 0,
    report: opt.ReportFile = None,
    as_json: opt.AsJson = False,
    gates: Annotated[GateFlags, only(*SPEED, *VERDICT)],
) -> None:
    """Time models against each other, in any form, at several batch sizes and thread counts.

    In each round every model runs once, in random order, so that what slows the machine down
    slows all of them; the speedup is the ratio of medians, with a paired interval. On CUDA the
    models that torch runs are also timed as CUDA graphs. --arch serves all files that need one.
    """
    limits = gates.options()
    batches, counts = opt.parse_counts(batch, "--batch"), opt.parse_counts(threads, "--threads")
    if gates.min_speedup is not None and len(models) < 2:
        raise UsageError(
            "Judging --min-speedup",
            "one model",
            "a speedup is against another one",
            "Name the reference first: bnnkit bench ORIGINAL SLIM.",
        )
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.bench import bench as measure

    measured = measure(
        [source.spec(file) for file in models],
        input_shape=opt.parse_shape(source.input_shape),
        batches=batches,
        threads=counts,
        device=device,
        seconds=seconds,
        seed=seed,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(measured, limits, as_json=as_json, report_file=report, junit=gates.junit)
