"""`bnnkit sweep`: one model pruned by several methods towards several targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import loop_options as loop
from bnnkit.cli import options as opt
from bnnkit.cli import prune_options as how
from bnnkit.cli.help import example
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.posterior_config import PosteriorConfig
from bnnkit.spec.prune import (
    PruneConfig,
    RecoveryConfig,
    SbpConfig,
    finetune_share,
    parse_size,
)
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

_TRAIN, _SBP, _POSTERIOR, _PRUNE, _AFTER = (
    TrainConfig(),
    SbpConfig(),
    PosteriorConfig(),
    PruneConfig(),
    RecoveryConfig(),
)
_SWEEP = SweepConfig()


def sweep(
    model: Annotated[Path, typer.Argument(help="The checkpoint, or a run directory.")],
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
    methods: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            rich_help_panel=how.METHOD,
            help="What decides, as in 'bnnkit prune --method': sbp; magnitude, taylor ... need a "
            "target.",
        ),
    ] = ",".join(_SWEEP.methods),
    target_macs: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE,SHARE",
            rich_help_panel=how.TARGET,
            help="Come down to these shares of the multiply-accumulates, each in runs of its own.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE,SIZE",
            rich_help_panel=how.TARGET,
            help="Come down to these sizes of the weights, such as 500kB,1MB.",
        ),
    ] = None,
    target_speedup: Annotated[
        str | None,
        typer.Option(
            metavar="X,X", rich_help_panel=how.TARGET, help="Become so many times as fast."
        ),
    ] = None,
    max_error_rise: Annotated[
        str | None,
        typer.Option(
            metavar="POINTS,POINTS",
            rich_help_panel=how.TARGET,
            help="Find the most compressed net that adds at most so much error on held-out data.",
        ),
    ] = None,
    cost: how.Cost = None,
    val: how.Val = _PRUNE.val,
    kl_scale: how.KlScale = None,
    kl_warmup: how.KlWarmup = _SBP.kl_warmup,
    noise_lr: how.NoiseLr = _SBP.noise_lr,
    init_log_sigma: how.InitLogSigma = None,
    threshold: how.Threshold = None,
    groups: how.Groups = _POSTERIOR.groups,
    kl_anneal: how.KlAnneal = _POSTERIOR.kl_anneal,
    finetune: how.Finetune = None,
    finetune_epochs: how.FinetuneEpochs = None,
    distill: how.Distill = _AFTER.distill,
    distill_temperature: how.DistillTemperature = _AFTER.temperature,
    reestimate_bn: how.ReestimateBn = _AFTER.reestimate,
    include: how.Include = None,
    exclude: how.Exclude = None,
    round_to: how.RoundTo = str(_PRUNE.round_to),
    epochs: loop.Epochs = _TRAIN.epochs,
    batch_size: loop.TrainBatch = _TRAIN.batch_size,
    lr: loop.Lr = _TRAIN.lr,
    optimiser: loop.Optimiser = _TRAIN.optimiser,
    weight_decay: loop.WeightDecay = _TRAIN.weight_decay,
    label_smoothing: loop.LabelSmoothing = _TRAIN.label_smoothing,
    freeze_bn: loop.FreezeBn = _TRAIN.freeze_bn,
    compile_: loop.Compile = _TRAIN.compile,
    precision: loop.Precision = _TRAIN.precision,
    batches: how.BenchBatch = ",".join(map(str, _PRUNE.batches)),
    bench_threads: how.BenchThreads = ",".join(map(str, _PRUNE.threads)),
    no_onnx: how.NoOnnx = False,
    no_pt2: how.NoPt2 = False,
    device: opt.Device = _TRAIN.device,
    threads: opt.Threads = _TRAIN.threads,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="N,N", rich_help_panel="Run", help="Seeds of each method and target."
        ),
    ] = ",".join(map(str, _SWEEP.seeds)),
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

    opt.require_data(data, "sweep")
    sbp, posterior = how.posterior_configs(
        kl_scale=kl_scale,
        kl_warmup=kl_warmup,
        kl_anneal=kl_anneal,
        noise_lr=noise_lr,
        init_log_sigma=init_log_sigma,
        threshold=threshold,
        groups=groups,
    )
    base = PruneConfig(
        train=TrainConfig(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            optimiser=optimiser,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            freeze_bn=freeze_bn,
            compile=compile_,
            precision=precision,
            device=device,
            threads=threads,
        ),
        sbp=sbp,
        posterior=posterior,
        recovery=RecoveryConfig(
            finetune=finetune_share(finetune, finetune_epochs, epochs),
            distill=distill,
            temperature=distill_temperature,
            reestimate=reestimate_bn,
        ),
        cost=cost,
        val=val,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        round_to=how.parse_round_to(round_to),
        batches=opt.parse_counts(batches, "--bench-batch"),
        threads=opt.parse_counts(bench_threads, "--bench-threads"),
        formats=tuple(f for f, off in (("pt2", no_pt2), ("onnx", no_onnx)) if not off),
    )
    config = SweepConfig(
        methods=parse_list(methods, "--methods", str, "sbp,magnitude"),
        macs=parse_list(target_macs, "--target-macs", float, "0.5,0.33"),
        sizes=parse_list(target_size, "--target-size", parse_size, "500kB,1MB"),
        speedups=parse_list(target_speedup, "--target-speedup", float, "1.5,2"),
        error_rises=parse_list(max_error_rise, "--max-error-rise", float, "0.5,1"),
        seeds=parse_list(seeds, "--seeds", int, "0,1,2"),
        base=base,
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
        ),
        config,
        out=out,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(report, as_json=as_json, closing=f"Sweep: {report.sections['out']}")
    raise typer.Exit(exit_code(report))
