"""`bnnkit prune`: from somebody's checkpoint to a slim, proven, timed model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import gate_options as gates
from bnnkit.cli import loop_options as loop
from bnnkit.cli import options as opt
from bnnkit.cli import prune_options as how
from bnnkit.cli.help import example
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.posterior_config import PosteriorConfig
from bnnkit.spec.prune import (
    PruneConfig,
    RecoveryConfig,
    SbpConfig,
    Target,
    finetune_share,
    parse_size,
)

__all__ = ["EXAMPLE", "prune"]

EXAMPLE = example(
    "bnnkit prune digits-cnn-train --data digits --epochs 16 --batch-size 64 --lr 3e-3 --kl-scale 3",
    """
bnnkit prune: digits-cnn-train

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
  torch, cpu, 1 thread, batch 1            0.318 ms [0.286, 0.385]        0.22 ms [0.18, 0.39]     1.45x [0.83, 1.77]   61
  torch, cpu, 1 thread, batch 32                 7.5 ms [3.8, 7.8]           1.4 ms [1.2, 3.3]        5.4x [2.3, 5.9]   46
  onnxruntime, cpu, 1 thread, batch 1   0.0876 ms [0.0849, 0.0902]  0.0596 ms [0.0582, 0.0610]  1.471x [1.422, 1.525]  131
  onnxruntime, cpu, 1 thread, batch 32        3.56 ms [3.47, 3.72]        1.01 ms [0.77, 1.66]        3.5x [2.2, 4.6]   45
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

Run directory: digits-cnn-train-prune
""",
)

_TRAIN, _SBP, _POSTERIOR, _PRUNE, _AFTER = (
    TrainConfig(),
    SbpConfig(),
    PosteriorConfig(),
    PruneConfig(),
    RecoveryConfig(),
)


def prune(
    model: Annotated[
        Path | None,
        typer.Argument(help="The checkpoint, or a run directory; fresh weights without one."),
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
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=how.METHOD,
            help="What decides. Learned: sbp (noise on units); sparse-vd, ard, group-ard, mn, "
            "mn-diag (noise on weights). Controls that only rank and need a target: magnitude, "
            "taylor, bn-scale, random.",
        ),
    ] = _PRUNE.method,
    target_macs: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=how.TARGET,
            help="Come down to this share of the multiply-accumulates.",
        ),
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            rich_help_panel=how.TARGET,
            help="Come down to this size of the weights, such as 500kB or 1MB.",
        ),
    ] = None,
    target_speedup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            rich_help_panel=how.TARGET,
            help="Become X times as fast, as measured at --speedup-at (default: batch 1, 1 "
            "thread, onnxruntime).",
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
    removal_seed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            rich_help_panel=how.METHOD,
            help="With --epochs 0: remove a random half, to exercise the surgery.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            rich_help_panel=how.METHOD,
            help="Show classes, locks and the most that could be saved; train nothing.",
        ),
    ] = False,
    epochs: loop.Epochs = _TRAIN.epochs,
    batch_size: loop.TrainBatch = _TRAIN.batch_size,
    lr: loop.Lr = _TRAIN.lr,
    optimiser: loop.Optimiser = _TRAIN.optimiser,
    weight_decay: loop.WeightDecay = _TRAIN.weight_decay,
    label_smoothing: loop.LabelSmoothing = _TRAIN.label_smoothing,
    freeze_bn: loop.FreezeBn = _TRAIN.freeze_bn,
    compile_: loop.Compile = _TRAIN.compile,
    precision: loop.Precision = _TRAIN.precision,
    resume: loop.Resume = False,
    batches: how.BenchBatch = ",".join(map(str, _PRUNE.batches)),
    bench_threads: how.BenchThreads = ",".join(map(str, _PRUNE.threads)),
    no_onnx: how.NoOnnx = False,
    no_pt2: how.NoPt2 = False,
    device: opt.Device = _TRAIN.device,
    threads: opt.Threads = _TRAIN.threads,
    seed: opt.Seed = _TRAIN.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    max_error_rise: gates.MaxErrorRise = None,
    max_nll_rise: gates.MaxNllRise = None,
    max_error: gates.MaxError = None,
    max_nll: gates.MaxNll = None,
    max_ece: gates.MaxEce = None,
    max_brier: gates.MaxBrier = None,
    min_speedup: gates.MinSpeedup = None,
    speedup_at: gates.SpeedupAt = None,
    min_mac_ratio: gates.MinMacRatio = None,
    min_param_ratio: gates.MinParamRatio = None,
    min_size_ratio: gates.MinSizeRatio = None,
    max_export_diff: gates.MaxExportDiff = None,
    strict: gates.Strict = False,
    junit: gates.Junit = None,
) -> None:
    """Remove what the evidence says a pretrained model does not need, and prove the result.

    Nobody gives a ratio: noise gates on every removable channel are learned with the weights,
    units whose signal-to-noise ratio is below 1 are closed, and their filters physically removed.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.prune import dry_run as plan_only
    from bnnkit.run.prune import prune as run

    opt.require_data(data, "prune")
    sbp, posterior = how.posterior_configs(
        kl_scale=kl_scale,
        kl_warmup=kl_warmup,
        kl_anneal=kl_anneal,
        noise_lr=noise_lr,
        init_log_sigma=init_log_sigma,
        threshold=threshold,
        groups=groups,
    )
    config = PruneConfig(
        method=method,
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
            seed=seed,
        ),
        sbp=sbp,
        posterior=posterior,
        recovery=RecoveryConfig(
            finetune=finetune_share(finetune, finetune_epochs, epochs),
            distill=distill,
            temperature=distill_temperature,
            reestimate=reestimate_bn,
        ),
        target=Target(
            macs=target_macs,
            size=None if target_size is None else parse_size(target_size),
            speedup=target_speedup,
            speedup_at=speedup_at,
        ),
        cost=cost,
        val=val,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        round_to=how.parse_round_to(round_to),
        removal_seed=removal_seed,
        batches=opt.parse_counts(batches, "--bench-batch"),
        threads=opt.parse_counts(bench_threads, "--bench-threads"),
        formats=tuple(f for f, off in (("pt2", no_pt2), ("onnx", no_onnx)) if not off),
    )
    options = GateOptions(
        max_error_rise=max_error_rise,
        max_nll_rise=max_nll_rise,
        max_error=max_error,
        max_nll=max_nll,
        max_ece=max_ece,
        max_brier=max_brier,
        min_speedup=min_speedup,
        min_mac_ratio=min_mac_ratio,
        min_param_ratio=min_param_ratio,
        min_size_ratio=min_size_ratio,
        max_export_diff=max_export_diff,
        # it may say where a target is timed, without a gate on it
        speedup_at=speedup_at if min_speedup is not None or not config.times_layers() else None,
        strict=strict,
    )
    model_spec = opt.model_spec(
        model,
        arch=arch,
        arch_arg=arch_arg,
        state_key=state_key,
        trust_pickle=trust_pickle,
        input_shape=input_shape,
    )
    data_spec = opt.data_spec(
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
    )
    progress = progress_reporter()
    if dry_run:
        report = plan_only(model_spec, data_spec, config, progress=progress, argv=sys.argv)
    else:
        report = run(
            model_spec,
            data_spec,
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
        junit=junit,
        closing=None if dry_run else f"Run directory: {report.sections['out']}",
    )
