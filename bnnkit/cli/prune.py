"""`bnnkit prune`: from somebody's checkpoint to a slim, proven, timed model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import CHAINS, GateFlags
from bnnkit.cli.groups import takes_groups, without
from bnnkit.cli.help import example
from bnnkit.cli.loop_options import LoopOptions, Resume
from bnnkit.cli.output_options import OutputOptions
from bnnkit.cli.prune_options import METHOD, TARGET, PruneOptions
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.prune import PruneConfig, Target, parse_size

__all__ = ["EXAMPLE", "prune"]

EXAMPLE = example(
    "bnnkit prune digits-cnn-train --data digits --epochs 16 --batch-size 64 --lr 3e-3 --kl-scale 3",
    """
bnnkit prune: digits-cnn-train

Note: no test part: 20% of each class held out, seed 0

Training
         epoch      loss            NLL          KL    error  units kept
  first      1    0.9692    0.1793 nats  371.9 nats  2.364 %         160
  best      15  0.003439  0.003439 nats           -      0 %           -
  last      16   0.00197   0.00197 nats           -      0 %           -
  16 epochs, 8 s.

Units kept
  class    units  kept
  conv1  32 → 15   47%
  conv2  64 → 12   19%
  conv3  64 → 33   52%
  3 classes, 160 → 60 units.

Locked
  parts  channels  reason
  fc           10  the model's output

Latency
  setting                                                 original                        slim                speedup    n
  torch, cpu, 1 thread, batch 1            0.399 ms [0.388, 0.413]     0.244 ms [0.233, 0.256]  1.639x [1.562, 1.727]  120
  torch, cpu, 1 thread, batch 32           4.420 ms [4.346, 4.492]     1.536 ms [1.492, 1.581]  2.877x [2.805, 2.947]   68
  onnxruntime, cpu, 1 thread, batch 1   0.1095 ms [0.1004, 0.1168]  0.0797 ms [0.0730, 0.0870]     1.37x [1.22, 1.51]  142
  onnxruntime, cpu, 1 thread, batch 32     1.820 ms [1.793, 1.848]     0.824 ms [0.786, 0.843]  2.208x [2.165, 2.305]   78
  Brackets: 95% intervals.

Original against slim
                                original                       slim                           change      n
  error              0.56 % [0.15, 2.01]        0.28 % [0.05, 1.56]      -0.28 points [-1.22, +0.66]    359
  NLL          0.038 nats [0.009, 0.067]  0.026 nats [0.003, 0.048]  -0.0121 nats [-0.0205, -0.0037]    359
  ECE                1.71 % [0.91, 2.55]        1.36 % [0.71, 2.20]      -0.34 points [-1.04, +0.63]    359
  Brier score       0.013 [0.001, 0.025]       0.012 [0.001, 0.023]       -0.0015 [-0.0047, +0.0016]    359
  parameters                      58,474                      6,769                      8.64x fewer  exact
  MACs                       1.79 M MACs               170.7 k MACs                     10.49x fewer  exact
  file size                     236.7 kB                   32.24 kB                    7.34x smaller  exact
  Brackets: 95% intervals. Changes are paired over the same inputs.

Checks on real inputs
  form                    worst difference  tolerance  unit       n  verdict
  gated = slim (float64)           2.8e-16      1e-09  relative  64  pass
  gated = slim                     2.3e-07     0.0001  relative  64  pass
  slim = safetensors               1.5e-07      1e-06  relative  64  pass
  slim = pt2                       1.5e-07     0.0001  relative  64  pass
  slim = onnx                      3.8e-07     0.0001  relative  64  pass

Run directory: digits-cnn-train-prune
""",
)


@takes_groups
def prune(
    model: Annotated[
        Path | None,
        typer.Argument(help="The checkpoint, or a run directory; fresh weights without one."),
    ] = None,
    *,
    source: opt.ModelOptions,
    data: opt.DataOptions,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            show_default="laplace with a target, else sbp",
            rich_help_panel=METHOD,
            help="What decides. By evidence, towards a target: laplace (trains nothing). Learned: "
            "sbp (noise on units); sparse-vd, ard, group-ard, mn, mn-diag (noise on weights). "
            "Controls, which need a target: magnitude, taylor, bn-scale, random.",
        ),
    ] = PruneConfig.method,
    target_macs: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=TARGET,
            help="Come down to this share of the multiply-accumulates.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            rich_help_panel=TARGET,
            help="Come down to this size of the weights, such as 500kB or 1MB.",
        ),
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            rich_help_panel=TARGET,
            help="Become X times as fast, as measured at --speedup-at (default: batch 1, 1 "
            "thread, onnxruntime).",
        ),
    ] = None,
    how: PruneOptions,
    removal_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            rich_help_panel=METHOD,
            help="With --epochs 0: remove a random half, to exercise the surgery.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=METHOD,
            help="Show classes, locks and the most that could be saved; train nothing.",
        ),
    ] = False,
    loop: LoopOptions,
    resume: Resume = False,
    output: OutputOptions,
    device: opt.Device = TrainConfig.device,
    threads: opt.Threads = TrainConfig.threads,
    seed: opt.Seed = TrainConfig.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    gates: Annotated[GateFlags, without(*CHAINS)],
) -> None:
    """Remove what the evidence says a pretrained model does not need, and prove the result.

    Nobody gives a ratio: noise gates on every removable channel are learned with the weights,
    units whose signal-to-noise ratio is below 1 are closed, and their filters physically removed.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.prune import dry_run as plan_only
    from bnnkit.run.prune import prune as run

    examples = data.spec("prune", split_seed=seed)
    config = replace(
        how.config(loop.config(device=device, threads=threads, seed=seed), output),
        method=method,
        target=Target(
            macs=target_macs,
            size=None if target_size is None else parse_size(target_size),
            speedup=target_speedup,
            speedup_at=gates.speedup_at,
        ),
        removal_seed=removal_seed,
    )
    if gates.min_speedup is None and config.times_layers():
        gates = replace(gates, speedup_at=None)  # it says where a target is timed, without a gate
    options = gates.options()
    original = source.spec(model)
    progress = progress_reporter()
    if dry_run:
        report = plan_only(original, examples, config, progress=progress, argv=sys.argv)
    else:
        report = run(
            original,
            examples,
            config,
            out=out,
            gates=options if options.limits() else None,
            resume=resume,
            force=force,
            progress=progress,
            argv=sys.argv,
        )
    conclude(
        report,
        None if dry_run else options,
        as_json=as_json,
        junit=gates.junit,
        closing=None if dry_run else f"Run directory: {report.sections['out']}",
    )
