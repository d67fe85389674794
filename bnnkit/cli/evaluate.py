"""`bnnkit eval MODEL --data DATA`: how good a model is, alone or against another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli.gate_options import (
    Junit,
    MaxBrier,
    MaxEce,
    MaxError,
    MaxErrorRise,
    MaxNll,
    MaxNllRise,
    MinMacRatio,
    MinParamRatio,
    MinSizeRatio,
    Strict,
)
from bnnkit.cli.help import example
from bnnkit.cli.options import (
    Arch,
    ArchArg,
    AsJson,
    BatchSize,
    Classes,
    Data,
    DataRoot,
    Device,
    Download,
    InputShape,
    Limit,
    Mean,
    Normalize,
    ReportFile,
    Seed,
    StateKey,
    Std,
    Threads,
    TrustPickle,
    data_spec,
    model_spec,
    require_data,
)
from bnnkit.errors import UsageError
from bnnkit.spec.gates import GateOptions

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
    arch: Arch = None,
    arch_arg: ArchArg = None,
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
    state_key: StateKey = None,
    trust_pickle: TrustPickle = False,
    input_shape: InputShape = None,
    data: Data = None,
    data_root: DataRoot = None,
    download: Download = False,
    mean: Mean = None,
    std: Std = None,
    normalize: Normalize = None,
    classes: Classes = None,
    limit: Limit = None,
    batch_size: BatchSize = 256,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    report: ReportFile = None,
    as_json: AsJson = False,
    max_error_rise: MaxErrorRise = None,
    max_nll_rise: MaxNllRise = None,
    max_error: MaxError = None,
    max_nll: MaxNll = None,
    max_ece: MaxEce = None,
    max_brier: MaxBrier = None,
    min_mac_ratio: MinMacRatio = None,
    min_param_ratio: MinParamRatio = None,
    min_size_ratio: MinSizeRatio = None,
    strict: Strict = False,
    junit: Junit = None,
) -> None:
    """Measure error, NLL, calibration error and Brier score, with intervals.

    The figures are of the test part of the data; where the data have none, a fifth of each class
    is held out by --seed. With --against the two models are compared input by input.
    """
    require_data(data, "eval")
    gates = GateOptions(
        max_error_rise=max_error_rise,
        max_nll_rise=max_nll_rise,
        max_error=max_error,
        max_nll=max_nll,
        max_ece=max_ece,
        max_brier=max_brier,
        min_mac_ratio=min_mac_ratio,
        min_param_ratio=min_param_ratio,
        min_size_ratio=min_size_ratio,
        strict=strict,
    )
    if against is None and (against_arch or against_arch_arg):
        raise UsageError(
            "Evaluating a model",
            "--against-arch without --against",
            "there is no reference that it could be of",
            "Add --against FILE.",
        )
    spec = data_spec(
        str(data),
        root=data_root,
        download=download,
        mean=mean,
        std=std,
        normalize=normalize,
        classes=classes,
        limit=limit,
        input_shape=input_shape,
        split_seed=seed,
    )
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.evaluation import evaluate as measure
    from bnnkit.run.gates import refuse_unmeasured

    refuse_unmeasured(gates, {"slim"} | ({"paired", "ratios"} if against else set()))
    named = model_spec(
        model,
        arch=arch,
        arch_arg=arch_arg,
        state_key=state_key,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
    )
    reference = against and model_spec(
        against,
        arch=against_arch or arch,
        arch_arg=against_arch_arg if against_arch or against_arch_arg else arch_arg,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
    )
    measured = measure(
        named,
        spec,
        against=reference,
        batch_size=batch_size,
        device=device,
        threads=threads,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(measured, gates, as_json=as_json, report_file=report, junit=junit)
