"""`bnnkit demo`: the whole job on embedded data, offline, in under a minute."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.help import example

__all__ = ["EXAMPLE", "demo"]

EXAMPLE = example(
    "bnnkit demo",
    """
bnnkit prune: digits-demo/original

Training
         epoch      loss            NLL          KL    error  units kept
  first      1    0.9692    0.1793 nats  371.9 nats  2.364 %         160
  best      15  0.004529  0.004529 nats           -      0 %           -
  last      16  0.002767  0.002767 nats           -      0 %           -
  16 epochs, 13 s.

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
  setting                                                 original                           slim                speedup   n
  torch, cpu, 1 thread, batch 1               0.85 ms [0.26, 0.87]           0.30 ms [0.15, 0.45]        2.9x [0.6, 5.9]  54
  torch, cpu, 1 thread, batch 32                 3.4 ms [3.3, 7.4]        1.079 ms [1.045, 1.238]        3.1x [2.7, 6.6]  55
  onnxruntime, cpu, 1 thread, batch 1   0.0850 ms [0.0832, 0.0889]  0.05544 ms [0.05483, 0.05648]  1.533x [1.485, 1.608]  84
  onnxruntime, cpu, 1 thread, batch 32     1.389 ms [1.369, 1.417]        0.484 ms [0.473, 0.494]  2.872x [2.796, 2.971]  61
  Brackets: 95% intervals.

Original against slim
                                original                       slim                        change      n
  error              0.56 % [0.15, 2.01]        0.28 % [0.05, 1.56]   -0.28 points [-1.22, +0.66]    359
  NLL          0.038 nats [0.009, 0.067]  0.023 nats [0.003, 0.042]  -0.015 nats [-0.026, -0.004]    359
  ECE                1.71 % [0.91, 2.55]        0.89 % [0.34, 1.60]   -0.81 points [-1.39, +0.01]    359
  Brier score       0.013 [0.001, 0.025]      0.010 [-0.001, 0.020]    -0.0033 [-0.0071, +0.0004]    359
  parameters                      58,474                      6,769                   8.64x fewer  exact
  MACs                       1.79 M MACs               170.7 k MACs                  10.49x fewer  exact
  file size                     236.7 kB                   32.24 kB                 7.34x smaller  exact
  Brackets: 95% intervals. Changes are paired over the same inputs.

Checks on real inputs
  form                    worst difference  tolerance  unit       n  verdict
  gated = slim (float64)           2.5e-16      1e-09  relative  64  pass
  gated = slim                       2e-07     0.0001  relative  64  pass
  slim = safetensors                 2e-07      1e-06  relative  64  pass
  slim = pt2                         2e-07     0.0001  relative  64  pass
  slim = onnx                      4.1e-07     0.0001  relative  64  pass

Run directory: digits-demo/slim
""",
)


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where original/ and slim/ are written.")
    ] = Path("digits-demo"),
    force: opt.Force = False,
    seed: opt.Seed = 0,
    as_json: opt.AsJson = False,
) -> None:
    """Train a small net on the embedded digits, prune it, prove and time the result."""
    from bnnkit.cli.console import print_json, progress_reporter, stdout_console
    from bnnkit.cli.tables import render
    from bnnkit.run.demo import demo as run

    report = run(out, force=force, seed=seed, progress=progress_reporter(), argv=sys.argv)
    if as_json:
        print_json(report.to_dict())
    else:
        console = stdout_console()
        render(report, console)
        console.print(f"Run directory: {report.sections['out']}")
