"""`bnnkit sbn-fit`: calibrated uncertainty for a batch-normalised net, without training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import gate_options as gates
from bnnkit.cli import options as opt
from bnnkit.cli.help import example
from bnnkit.spec.config import SbnConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.noise import SAMPLERS

__all__ = ["EXAMPLE", "sbn_fit"]

EXAMPLE = example(
    "bnnkit sbn-fit digits-cnn-train --data digits",
    """
""",
)

_METHOD = "Statistics"
_COMPARE = "Comparison"
_OUTPUT = "Output"
_SBN = SbnConfig()


def sbn_fit(
    model: Annotated[
        Path | None, typer.Argument(help="The checkpoint, or a run directory; it is not changed.")
    ] = None,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArg = None,
    state_key: opt.StateKey = None,
    trust_pickle: opt.TrustPickle = False,
    input_shape: opt.InputShape = None,
    data: opt.Data = None,
    data_root: opt.DataRoot = None,
    download: opt.Download = False,
    mean: opt.Mean = None,
    std: opt.Std = None,
    normalize: opt.Normalize = None,
    classes: opt.Classes = None,
    limit: opt.Limit = None,
    augment: opt.Augment = "auto",
    sampler: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_METHOD,
            help=f"Joint distribution of the statistics: {', '.join(SAMPLERS)}.",
        ),
    ] = _SBN.sampler,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_METHOD,
            help="Inputs of the batches whose statistics are fitted; fewer give more noise.",
        ),
    ] = _SBN.batch_size,
    batches: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_METHOD, help="Training batches to use, 50 or more."
        ),
    ] = _SBN.batches,
    samples: Annotated[
        int,
        typer.Option(
            metavar="K", rich_help_panel=_METHOD, help="Statistics drawn for one answer."
        ),
    ] = _SBN.samples,
    rank: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_METHOD, help="Directions of the lowrank sampler."
        ),
    ] = _SBN.rank,
    trained_batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel=_METHOD,
            help="Batch size of the training, if you know it: a difference is pointed out.",
        ),
    ] = _SBN.trained_batch_size,
    calibrate: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_METHOD,
            help="What is fitted to held-out labels at the end: temperature or none.",
        ),
    ] = _SBN.calibrate,
    calibration_split: Annotated[
        str,
        typer.Option(
            metavar="PLACE",
            rich_help_panel=_METHOD,
            help="Where those labels are: cross (each half of the test part for the other), "
            "test:SHARE or train:SHARE (set aside).",
        ),
    ] = _SBN.calibration_split,
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
    ] = _SBN.ood_limit,
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
    ] = _SBN.mc_batch_norm,
    onnx_noise: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            rich_help_panel=_OUTPUT,
            help="ONNX reads its noise as an input, or draws it by an operator.",
        ),
    ] = _SBN.onnx_noise,
    bench_batch: Annotated[
        str, typer.Option(metavar="N,N", rich_help_panel=_OUTPUT, help="Batch sizes to time.")
    ] = ",".join(map(str, _SBN.batches_timed)),
    bench_threads: Annotated[
        str, typer.Option(metavar="N,N", rich_help_panel=_OUTPUT, help="CPU threads to time with.")
    ] = ",".join(map(str, _SBN.threads_timed)),
    no_onnx: Annotated[
        bool, typer.Option("--no-onnx", rich_help_panel=_OUTPUT, help="Write no ONNX file.")
    ] = False,
    no_pt2: Annotated[
        bool, typer.Option("--no-pt2", rich_help_panel=_OUTPUT, help="Write no .pt2 file.")
    ] = False,
    device: opt.Device = _SBN.device,
    threads: opt.Threads = _SBN.threads,
    seed: opt.Seed = _SBN.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    max_error_rise: gates.MaxErrorRise = None,
    max_nll_rise: gates.MaxNllRise = None,
    max_error: gates.MaxError = None,
    max_nll: gates.MaxNll = None,
    max_ece: gates.MaxEce = None,
    max_brier: gates.MaxBrier = None,
    max_export_diff: gates.MaxExportDiff = None,
    strict: gates.Strict = False,
    junit: gates.Junit = None,
) -> None:
    """Fit the distribution of every batch-norm statistic, and average predictions over it.

    One pass over training batches; the weights stay as they are. The report puts plain batch
    norm, a temperature alone and the other ways to uncertainty beside the result.
    """
    from bnnkit.cli.console import progress_reporter, stdout_console
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.sbn import sbn_fit as run

    opt.require_data(data, "sbn-fit")
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
        batches_timed=opt.parse_counts(bench_batch, "--bench-batch"),
        threads_timed=opt.parse_counts(bench_threads, "--bench-threads"),
        formats=tuple(f for f, off in (("pt2", no_pt2), ("onnx", no_onnx)) if not off),
        device=device,
        threads=threads,
        seed=seed,
    )
    options = GateOptions(
        max_error_rise=max_error_rise,
        max_nll_rise=max_nll_rise,
        max_error=max_error,
        max_nll=max_nll,
        max_ece=max_ece,
        max_brier=max_brier,
        max_export_diff=max_export_diff,
        strict=strict,
    )
    report = run(
        opt.model_spec(
            model,
            arch=arch,
            arch_arg=arch_arg,
            state_key=state_key,
            trust_pickle=trust_pickle,
            input_shape=input_shape,
        ),
        opt.data_spec(
            str(data),
            root=data_root,
            download=download,
            mean=mean,
            std=std,
            normalize=normalize,
            classes=classes,
            limit=limit,
            augment=augment,
            split_seed=seed,
        ),
        config,
        members=[
            opt.model_spec(
                file,
                arch=arch,
                arch_arg=arch_arg,
                state_key=state_key,
                trust_pickle=trust_pickle,
                input_shape=input_shape,
            )
            for file in member or ()
        ],
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(report, options, as_json=as_json, junit=junit)
    if not as_json:
        stdout_console().print(f"Run directory: {report.sections['out']}")
