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
  best      14  0.007217  0.007217 nats           -      0 %           -
  last      16   0.00263   0.00263 nats           -      0 %           -
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
  setting                                                 original                        slim                speedup    n
  torch, cpu, 1 thread, batch 1            0.358 ms [0.307, 0.407]        0.31 ms [0.21, 0.46]     1.17x [0.74, 1.71]   86
  torch, cpu, 1 thread, batch 32              7.91 ms [7.63, 8.03]        2.54 ms [1.63, 3.41]        3.1x [2.3, 4.8]   40
  onnxruntime, cpu, 1 thread, batch 1   0.1616 ms [0.1602, 0.1638]  0.1277 ms [0.1258, 0.1293]  1.266x [1.246, 1.287]  111
  onnxruntime, cpu, 1 thread, batch 32        3.66 ms [3.54, 3.74]        1.16 ms [0.61, 1.59]        3.2x [2.3, 6.0]   44
  Brackets: 95% intervals.

Original against slim
                                original                       slim                           change      n
  error              0.56 % [0.15, 2.01]        0.56 % [0.15, 2.01]      +0.00 points [-0.77, +0.77]    359
  NLL          0.038 nats [0.009, 0.067]  0.024 nats [0.003, 0.045]  -0.0137 nats [-0.0223, -0.0050]    359
  ECE                1.71 % [0.91, 2.55]        0.90 % [0.40, 1.59]      -0.81 points [-1.34, -0.04]    359
  Brier score       0.013 [0.001, 0.025]      0.010 [-0.001, 0.021]       -0.0032 [-0.0060, -0.0004]    359
  parameters                      58,474                      6,769                      8.64x fewer  exact
  MACs                       1.79 M MACs               170.7 k MACs                     10.49x fewer  exact
  file size                     236.7 kB                   29.05 kB                    8.15x smaller  exact
  Brackets: 95% intervals. Changes are paired over the same inputs.

Checks on real inputs
  form                    worst difference  tolerance  unit       n  verdict
  gated = slim (float64)           2.9e-16      1e-09  relative  64  pass
  gated = slim                     2.3e-07     0.0001  relative  64  pass
  slim = safetensors               1.2e-07      1e-06  relative  64  pass
  slim = pt2                       1.2e-07     0.0001  relative  64  pass
  slim = onnx                      6.2e-07     0.0001  relative  64  pass

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
