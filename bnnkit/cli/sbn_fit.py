"""`bnnkit sbn-fit`: calibrated uncertainty for a batch-normalised net, without training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import QUALITY, VERDICT, GateFlags
from bnnkit.cli.groups import only, takes_groups
from bnnkit.cli.help import example
from bnnkit.cli.output_options import OUTPUT, OutputOptions
from bnnkit.spec.config import SbnConfig
from bnnkit.spec.noise import SAMPLERS

__all__ = ["EXAMPLE", "sbn_fit"]

EXAMPLE = example(
    "bnnkit sbn-fit digits-cnn-train --data digits --ood mnist --data-root data",
    """
bnnkit sbn-fit: digits-cnn-train

Note: The statistics belong to batches of 32, and the net was trained on batches of 64: --batch-size 64 gives the noise of its training, smaller batches give more.
Note: no test part: 20% of each class held out, seed 0

Fit of the batch statistics
                                                           value
  sampler                                                lowrank
  batches                                       300 of 32 inputs
  normalisation layers                                         3
  channels                                                   160
  store                                                 17.92 kB
  store of a replay                       384 kB (21.4x as much)
  time to fit                                             2.74 s
  median KS distance                                     0.03577
  median KS of a true fit            0.03504, 95 % below 0.05264
  rejected by Lilliefors, 5 % level           6.9 % of 320 tests
  A true fit is rejected in 5 % of tests.

Latency
  setting                               model                                  latency      spread                   speedup   n
  torch, cpu, 1 thread, batch 1         original               0.289 ms [0.275, 0.299]   0.0382 ms                 reference  45
  torch, cpu, 1 thread, batch 1         stochastic, K = 1      0.663 ms [0.643, 0.705]    0.128 ms     0.436x [0.400, 0.450]  45
  torch, cpu, 1 thread, batch 1         stochastic, K = 10     1.652 ms [1.562, 1.731]   0.2836 ms  0.1749x [0.1645, 0.1822]  45
  torch, cpu, 1 thread, batch 1         stochastic, K = 30     3.119 ms [3.062, 3.240]   0.4003 ms  0.0926x [0.0876, 0.0953]  45
  torch, cpu, 1 thread, batch 32        original                  3.59 ms [3.41, 4.64]    1.075 ms                 reference  15
  torch, cpu, 1 thread, batch 32        stochastic, K = 1         4.10 ms [3.78, 5.22]    1.318 ms        0.88x [0.73, 1.05]  15
  torch, cpu, 1 thread, batch 32        stochastic, K = 10        36.3 ms [33.3, 45.8]    11.88 ms     0.099x [0.090, 0.121]  15
  torch, cpu, 1 thread, batch 32        stochastic, K = 30           122 ms [105, 133]    24.72 ms  0.0295x [0.0277, 0.0357]  15
  onnxruntime, cpu, 1 thread, batch 1   original            0.0917 ms [0.0898, 0.0938]  0.01391 ms                 reference  91
  onnxruntime, cpu, 1 thread, batch 1   stochastic, K = 30     1.698 ms [1.679, 1.736]   0.1405 ms  0.0540x [0.0525, 0.0552]  91
  onnxruntime, cpu, 1 thread, batch 32  original                  1.47 ms [1.46, 1.79]    0.362 ms                 reference  15
  onnxruntime, cpu, 1 thread, batch 32  stochastic, K = 30        49.0 ms [48.7, 51.9]      5.7 ms  0.0299x [0.0286, 0.0332]  15
  Brackets: 95% intervals.

Out of domain: mnist
  method                                  AUROC, %                   change  AUROC by EE, %  AUROC by MI, %  AUPR, %  FPR95, %
  batch norm                                 99.16                reference               -               -    99.84      3.90
  batch norm + temperature                   99.11     -0.06 [-0.20, +0.09]               -               -    99.83      4.74
  fitted means                               99.15  -0.017 [-0.028, -0.007]               -               -    99.84      3.90
  low-rank SBN                               99.15  -0.011 [-0.030, +0.008]           99.16           98.19    99.84      4.18
  low-rank SBN + temperature (delivered)     99.09     -0.08 [-0.23, +0.07]           99.16           98.19    99.83      4.74
  By the entropy of the prediction, or its parts: the expected entropy of one sample (EE) and the mutual information with the noise (MI). Higher is better, but FPR95. Changes are points of AUROC by entropy. n = 2,359.

Original against stochastic
                                     original                  stochastic                         change    n
  error                   0.56 % [0.15, 2.01]         0.56 % [0.15, 2.01]    +0.00 points [-0.77, +0.77]  359
  NLL              0.026 nats [-0.006, 0.058]  0.033 nats [-0.014, 0.080]   +0.007 nats [-0.008, +0.022]  359
  ECE                     0.70 % [0.22, 1.41]         0.70 % [0.22, 1.44]    +0.00 points [-0.13, +0.14]  359
  ECE, equal mass         0.72 % [0.21, 1.52]         0.73 % [0.12, 1.53]    +0.01 points [-0.26, +0.71]  359
  Brier score           0.009 [-0.002, 0.020]       0.009 [-0.002, 0.021]  +0.00029 [-0.00026, +0.00083]  359
  Brackets: 95% intervals. Changes are paired over the same inputs.

Side by side
  method                                   K     T  error, %  NLL, nats                  change of NLL  ECE, %   Brier
  batch norm                               1     -      0.56     0.0263                      reference    0.70  0.0090
  batch norm + temperature                 1  0.93      0.56     0.0328        +0.006 [-0.008, +0.021]    0.70  0.0093
  fitted means                             1     -      0.56     0.0264  +0.00016 [-0.00023, +0.00055]    0.67  0.0090
  low-rank SBN                            30     -      0.56     0.0266  +0.00031 [+0.00006, +0.00056]    0.67  0.0091
  low-rank SBN + temperature (delivered)  30  0.92      0.56     0.0331        +0.007 [-0.008, +0.022]    0.70  0.0093
  MC-BN (n = 100)                         30     -      2.00     0.0709     +0.0003 [-0.0021, +0.0027]    1.53  0.0268
  K: passes averaged; T: temperature. n = 359 where not said. Changes are against batch norm, paired over the same inputs (95% intervals). Compare a row of fewer inputs by its change, not by its figures.

Low-rank SBN + temperature is not told apart from plain batch norm in log-loss (+0.0068 nats [-0.0085, +0.0221]).
A temperature alone (0.93) is not told apart from it (+0.0003 nats [-0.0001, +0.0008]) at one pass in place of 30.

Checks on real inputs
  form                      worst difference  tolerance  unit       n  verdict
  K passes = virtual batch           1.2e-07      1e-05  relative  64  pass
  stochastic = safetensors           5.8e-11      1e-06  relative  64  pass
  stochastic = pt2                   1.2e-07      1e-05  relative  64  pass
  stochastic = onnx                  1.2e-07      1e-05  relative  64  pass

Run directory: digits-cnn-train-sbn-fit
""",
)

_METHOD = "Statistics"
_COMPARE = "Comparison"


@takes_groups
def sbn_fit(
    model: Annotated[
        Path | None, typer.Argument(help="The checkpoint, or a run directory; it is not changed.")
    ] = None,
    *,
    source: opt.ModelOptions,
    data: opt.DataOptions,
    sampler: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_METHOD,
            help=f"Joint distribution of the statistics: {', '.join(SAMPLERS)}.",
        ),
    ] = SbnConfig.sampler,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_METHOD,
            help="Inputs of the batches whose statistics are fitted; fewer give more noise.",
        ),
    ] = SbnConfig.batch_size,
    batches: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_METHOD, help="Training batches to use, 50 or more."
        ),
    ] = SbnConfig.batches,
    samples: Annotated[
        int,
        typer.Option(
            metavar="K", rich_help_panel=_METHOD, help="Statistics drawn for one answer."
        ),
    ] = SbnConfig.samples,
    rank: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_METHOD, help="Directions of the lowrank sampler."
        ),
    ] = SbnConfig.rank,
    trained_batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel=_METHOD,
            help="Batch size of the training, if you know it: a difference is pointed out.",
        ),
    ] = SbnConfig.trained_batch_size,
    calibrate: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_METHOD,
            help="What is fitted to held-out labels at the end: temperature or none.",
        ),
    ] = SbnConfig.calibrate,
    calibration_split: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            rich_help_panel=_METHOD,
            help="Where those labels are: cross (each half of the test part for the other), "
            "test:SHARE or train:SHARE (set aside).",
        ),
    ] = SbnConfig.calibration_split,
    ood: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_COMPARE,
            help="Data of another domain, or other-classes; may be repeated.",
        ),
    ] = None,
    ood_limit: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_COMPARE, help="Most inputs of each --ood that are used."
        ),
    ] = SbnConfig.ood_limit,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SAMPLER",
            rich_help_panel=_COMPARE,
            help="A further sampler to measure; may be repeated.",
        ),
    ] = None,
    member: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_COMPARE,
            help="A further checkpoint of the same architecture, for an ensemble; may be "
            "repeated.",
        ),
    ] = None,
    mc_bn: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_COMPARE,
            help="Test inputs on which MC-BN is measured; 0 leaves it out.",
        ),
    ] = SbnConfig.mc_batch_norm,
    onnx_noise: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            rich_help_panel=OUTPUT,
            help="ONNX reads its noise as an input, or draws it by an operator.",
        ),
    ] = SbnConfig.onnx_noise,
    output: OutputOptions,
    device: opt.Device = SbnConfig.device,
    threads: opt.Threads = SbnConfig.threads,
    seed: opt.Seed = SbnConfig.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    gates: Annotated[GateFlags, only(*QUALITY, "max_export_diff", *VERDICT)],
) -> None:
    """Fit the distribution of every batch-norm statistic, and average predictions over it.

    One pass over training batches; the weights stay as they are. The report puts plain batch
    norm, a temperature alone and the other ways to uncertainty beside the result.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.sbn import sbn_fit as run

    examples = data.spec("sbn-fit", split_seed=seed)
    config = SbnConfig(
        sampler=sampler,
        batch_size=batch_size,
        batches=batches,
        samples=samples,
        rank=rank,
        calibrate=calibrate,
        calibration_split=calibration_split,
        compare=tuple(compare or ()),
        ood=tuple(ood or ()),
        ood_limit=ood_limit,
        mc_batch_norm=mc_bn,
        trained_batch_size=trained_batch_size,
        onnx_noise=onnx_noise,
        batches_timed=output.batches(),
        threads_timed=output.threads(),
        formats=output.formats(),
        device=device,
        threads=threads,
        seed=seed,
    )
    options = gates.options()
    report = run(
        source.spec(model),
        examples,
        config,
        members=[source.spec(file) for file in member or ()],
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    closing = f"Run directory: {report.sections['out']}"
    conclude(report, options, as_json=as_json, junit=gates.junit, closing=closing)
