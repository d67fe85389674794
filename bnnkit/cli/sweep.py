"""`bnnkit sweep`: one model pruned by several methods towards several targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.groups import takes_groups
from bnnkit.cli.help import example
from bnnkit.cli.loop_options import LoopOptions
from bnnkit.cli.output_options import OutputOptions
from bnnkit.cli.prune_options import METHOD, TARGET, PruneOptions
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.prune import parse_size
from bnnkit.spec.sweep import SweepConfig, parse_list

__all__ = ["EXAMPLE", "sweep"]

EXAMPLE = example(
    "bnnkit sweep digits-cnn-train --data digits --methods sbp,magnitude --target-macs 0.5,0.2 --epochs 8 --batch-size 64 --lr 3e-3 --bench-batch 32 --no-onnx --no-pt2",
    """
bnnkit sweep: digits-cnn-train

Note: no test part: 20% of each class held out, seed 0

Methods and targets
  method           target  seeds          error                    change   MACs          size             speedup  on the front of
  original                               1.95 %                            1.00x         1.00x               1.00x
  sbp        50 % of MACs      3  0.84 ± 0.48 %  -1.1 points [-3.0, +0.8]  2.02x  1.81 ± 0.02x  1.12x [0.90, 1.47]  -
  sbp        20 % of MACs      3         0.84 %  -1.1 points [-2.4, +0.2]  5.03x         3.65x  2.32x [1.52, 3.27]  all
  magnitude  50 % of MACs      3  0.37 ± 0.16 %  -1.6 points [-3.1, -0.0]  2.01x         1.31x  1.23x [0.88, 1.86]  all
  magnitude  20 % of MACs      3  2.23 ± 0.28 %  +0.3 points [-1.5, +2.0]  5.03x         2.42x     2.1x [1.3, 3.3]  -
  Means over the seeds ± standard deviation; changes are paired over the same 359 inputs. Brackets: 95% intervals over inputs (of a speedup: rounds) and seeds. Speedup: torch, cpu, 1 thread, batch 32. Front: no row has less error at no more of that cost.

Sweep: digits-cnn-train-sweep
""",
)


@takes_groups
def sweep(
    model: Annotated[Path, typer.Argument(help="The checkpoint, or a run directory.")],
    *,
    source: opt.ModelOptions,
    data: opt.DataOptions,
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            rich_help_panel=METHOD,
            help="What decides, as in 'bnnkit prune --method': sbp; magnitude, taylor ... need a "
            "target.",
        ),
    ] = ",".join(SweepConfig.methods),
    target_macs: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE,SHARE",
            rich_help_panel=TARGET,
            help="Come down to these shares of the multiply-accumulates, each in runs of its own.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE,SIZE",
            rich_help_panel=TARGET,
            help="Come down to these sizes of the weights, such as 500kB,1MB.",
        ),
    ] = None,
    target_speedup: Annotated[
        str | None,
        typer.Option(metavar="X,X", rich_help_panel=TARGET, help="Become so many times as fast."),
    ] = None,
    max_error_rise: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS,POINTS",
            rich_help_panel=TARGET,
            help="Find the most compressed net that adds at most so much error on held-out data.",
        ),
    ] = None,
    how: PruneOptions,
    loop: LoopOptions,
    output: OutputOptions,
    device: opt.Device = TrainConfig.device,
    threads: opt.Threads = TrainConfig.threads,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="N,N", rich_help_panel="Run", help="Seeds of each method and target."
        ),
    ] = ",".join(map(str, SweepConfig.seeds)),
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            rich_help_panel="Run",
            help="Folder of the sweep; what it holds already is gone on with.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel="Run", help="Run every cell anew.")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Prune one model by several methods, targets and seeds, and find the Pareto fronts.

    Every method goes to every target with every seed, each in a run of 'bnnkit prune' in
    OUT/cells. The same command goes on where it was stopped. A target that cannot be reached is
    told in the report; the exit code is 0 unless every cell failed.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.sweep import exit_code
    from bnnkit.run.sweep import sweep as run

    examples = data.spec("sweep")
    config = SweepConfig(
        methods=parse_list(methods, "--methods", str, "sbp,magnitude"),
        macs=parse_list(target_macs, "--target-macs", float, "0.5,0.33"),
        sizes=parse_list(target_size, "--target-size", parse_size, "500kB,1MB"),
        speedups=parse_list(target_speedup, "--target-speedup", float, "1.5,2"),
        error_rises=parse_list(max_error_rise, "--max-error-rise", float, "0.5,1"),
        seeds=parse_list(seeds, "--seeds", int, "0,1,2"),
        base=how.config(loop.config(device=device, threads=threads), output),
    )
    report = run(
        source.spec(model),
        examples,
        config,
        out=out,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(report, as_json=as_json, closing=f"Sweep: {report.sections['out']}")
    raise typer.Exit(exit_code(report))
