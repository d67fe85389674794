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

Note: no test part: 20% of each class held out, seed 0

Training
         epoch      loss            NLL          KL    error  units kept
  first      1    0.9692    0.1793 nats  371.9 nats  2.364 %         160
  best      14  0.008426  0.008426 nats           -      0 %           -
  last      16  0.001892  0.001892 nats           -      0 %           -
  16 epochs, 7 s.

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
  torch, cpu, 1 thread, batch 1         0.2548 ms [0.2490, 0.2620]  0.1522 ms [0.1484, 0.1571]  1.673x [1.618, 1.727]  214
  torch, cpu, 1 thread, batch 32              4.33 ms [4.15, 4.43]     1.596 ms [1.512, 1.684]     2.71x [2.58, 2.85]   68
  onnxruntime, cpu, 1 thread, batch 1   0.0884 ms [0.0871, 0.0914]  0.0603 ms [0.0591, 0.0623]  1.467x [1.428, 1.504]  229
  onnxruntime, cpu, 1 thread, batch 32     1.678 ms [1.590, 1.735]     0.703 ms [0.662, 0.755]     2.39x [2.25, 2.50]   92
  Brackets: 95% intervals.

Original against slim
                                original                       slim                           change      n
  error              0.56 % [0.15, 2.01]        0.56 % [0.15, 2.01]      +0.00 points [-0.77, +0.77]    359
  NLL          0.038 nats [0.009, 0.067]  0.024 nats [0.002, 0.045]  -0.0139 nats [-0.0235, -0.0043]    359
  ECE                1.71 % [0.91, 2.55]        0.97 % [0.46, 1.66]      -0.74 points [-1.33, +0.21]    359
  Brier score       0.013 [0.001, 0.025]      0.010 [-0.001, 0.022]       -0.0027 [-0.0060, +0.0005]    359
  parameters                      58,474                      6,769                      8.64x fewer  exact
  MACs                       1.79 M MACs               170.7 k MACs                     10.49x fewer  exact
  file size                     236.7 kB                   32.24 kB                    7.34x smaller  exact
  Brackets: 95% intervals. Changes are paired over the same inputs.

Checks on real inputs
  form                    worst difference  tolerance  unit       n  verdict
  gated = slim (float64)           2.8e-16      1e-09  relative  64  pass
  gated = slim                     1.5e-07     0.0001  relative  64  pass
  slim = safetensors               1.5e-07      1e-06  relative  64  pass
  slim = pt2                       1.5e-07     0.0001  relative  64  pass
  slim = onnx                      3.7e-07     0.0001  relative  64  pass

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
