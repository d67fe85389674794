"""`bnnkit mh-filter`: a pretrained generator corrected by implicit Metropolis-Hastings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.help import example
from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.mh import MhConfig

__all__ = ["EXAMPLE", "mh_filter"]

EXAMPLE = example(
    "bnnkit mh-filter gen.pt --arch bnnkit:mlp-gan-generator --latent normal:64 "
    "--out-range=-1,1 --shape 1,28,28 --data mnist --data-root data --features classifier.pth "
    "--features-arch bnnkit:mnist-lenet",
    """
bnnkit mh-filter: gen.pt

Discriminator and chain
                                                                          value       n
  discriminator                                                  small conv net
  its loss                                         pairwise logistic loss (MCE)
  its training                                                390 steps, 19.8 s
  its calibration                                         temperature, T = 0.83
  AUC, held out                                          84.40 % [83.87, 84.93]  20,000
  NLL, held out                                    0.4940 nats [0.4882, 0.4999]  20,000
  ECE, held out                                                         3.187 %  20,000
  bank                                 100,000 proposals made, 1.31 s, 76,358/s
  ESS of their weights                                          23,719 (23.7 %)
  proposals                                                         independent
  chains                                                   10,000 of length 640
  acceptance                                                             43.9 %       -
  acceptance from real images                                            35.5 %       -
  TV of generator and data, Theorem 1          0.645 (1 - acceptance from real)
  chains that never moved                                    0.0 %, 0 restarted
  distinct samples                                                       86.1 %
  speed of the chains alone                                            40,509/s
  Loss of held-out pairs (d ≥ 0.01): -0.9103 nats. The bound of TV² from it is 1.34e+06 x 0.351 nats = 4.7e+05, vacuous: no distance exceeds 1.

By length of the chain
  length  accepted, %  unmoved, %  FID, classifier  IS, classifier  FID, pixels, PCA-50
       1         36.0        63.4            47.61            8.21                 1.28
       5         40.3        26.6            16.48            8.82                 0.52
      20         42.2         6.6             9.10            8.98                 0.49
      40         42.8         2.4             7.97            9.01                 0.50
     160         43.1         0.2             7.73            9.00                 0.50
     640         43.8         0.0             6.84            9.04                 0.52

Samplers: variety and cost
  sampler                           TV of classes  accepted, %  distinct, %  time, s  KID, classifier  KID, pixels, PCA-50
  as the generator makes them               0.329            -            -        -     233.9 ± 34.4        0.135 ± 0.015
  filtered (delivered)                      0.065         43.9         86.1    0.247     12.55 ± 8.06      0.0075 ± 0.0029
  discriminator rejection sampling          0.134         17.9        100.0    0.046                -                    -
  sampling-importance-resampling            0.063            -         85.7    0.033                -                    -
  real training images (floor)              0.017            -            -        -      0.21 ± 5.03      0.0029 ± 0.0021
  TV of classes: total variation of the class shares from the test images'.

Samplers side by side
  sampler                           FID, classifier  IS, classifier  precision, classifier  recall, classifier  FID, pixels, PCA-50  precision, pixels, PCA-50  recall, pixels, PCA-50  rarest class, %  commonest, %
  as the generator makes them                127.12            6.73                   0.86                0.83                 4.45                       0.89                    0.76              2.1          33.0
  filtered (delivered)                         6.84            9.04                   0.84                0.83                 0.52                       0.85                    0.75              7.3          12.2
  discriminator rejection sampling            27.84            8.63                      -                   -                 0.77                          -                       -              4.5          15.9
  sampling-importance-resampling               7.21            9.01                      -                   -                 0.52                          -                       -              7.6          12.3
  real training images (floor)                 1.06            9.79                   0.88                0.88                 0.21                       0.87                    0.89              8.3          11.5
  n = 10,000. Floor: real training images against the test images, as good as can be.

The Frechet distance in classifier falls from 127 to 6.84 (real images: 1.1).
The Frechet distance in pixels, PCA-50 falls from 4.45 to 0.523 (real images: 0.21).
The temperature was chosen by distances of held-out training images in these features; the test images had no part in it.

Checks on real inputs
  form                  worst difference  tolerance  unit       n  verdict
  generator = onnx               1.8e-06     0.0001  relative  64  pass
  discriminator = onnx           4.7e-07     0.0001  relative  64  pass

Run directory: gen-mh-filter
""",
)

_GENERATOR = "Generator"
_DISCRIMINATOR = "Discriminator"
_FEATURES = "Features"
_CHAINS = "Chains"
_D = MhConfig()


def mh_filter(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="generator",
            help="TorchScript, .pt2, ONNX, a run directory, or tensors with --arch.",
            show_default=False,
        ),
    ] = None,
    arch: opt.Arch = None,
    arch_arg: opt.ArchArg = None,
    state_key: opt.StateKey = None,
    trust_pickle: opt.TrustPickle = False,
    latent: Annotated[
        str | None,
        typer.Option(
            metavar="DIST:SIZE",
            rich_help_panel=_GENERATOR,
            help="What it is fed with: normal:64, normal:100x1x1, uniform:64 on [-1, 1], unit:64 "
            "on [0, 1], or file.py:sampler.",
        ),
    ] = None,
    out_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            rich_help_panel=_GENERATOR,
            help="Outputs of black and white: -1,1, 0,1, 0,255 or logits; read off the outputs "
            "where they leave no doubt.",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W",
            rich_help_panel=_GENERATOR,
            help="Shape of one image, where the outputs are flat.",
        ),
    ] = None,
    class_count: Annotated[
        int | None,
        typer.Option(
            "--conditional",
            metavar="N",
            rich_help_panel=_GENERATOR,
            help="It is told one of N classes; chains are run for each.",
        ),
    ] = None,
    pixels: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            rich_help_panel=_GENERATOR,
            help="Of a decoder: its mean is the image, or Bernoulli pixels are sampled from it.",
        ),
    ] = "mean",
    data: opt.Data = None,
    data_root: opt.DataRoot = None,
    download: opt.Download = False,
    input_shape: opt.InputShape = None,
    classes: opt.Classes = None,
    limit: opt.Limit = None,
    discriminator: Annotated[
        str,
        typer.Option(
            metavar="KIND|FILE",
            rich_help_panel=_DISCRIMINATOR,
            help="conv: a net trained now; features: a regression on --features; combined: both; "
            "or the file of the discriminator that the generator was trained against.",
        ),
    ] = _D.discriminator,
    discriminator_arch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", rich_help_panel=_DISCRIMINATOR, help="Architecture of that file."
        ),
    ] = None,
    discriminator_output: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            rich_help_panel=_DISCRIMINATOR,
            help="What that file gives: logit, probability, or auto.",
        ),
    ] = _D.owner_output,
    loss: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_DISCRIMINATOR,
            help="bce, mce (pairwise logistic) or ub (the upper bound of the paper).",
        ),
    ] = _D.loss,
    floor: Annotated[
        float,
        typer.Option(
            metavar="B", rich_help_panel=_DISCRIMINATOR, help="b of d in [b, 1], for ub."
        ),
    ] = _D.floor,
    epochs: Annotated[
        float,
        typer.Option(
            metavar="N",
            rich_help_panel=_DISCRIMINATOR,
            help="Passes over the real images; part of one is allowed.",
        ),
    ] = _D.epochs,
    lr: Annotated[
        float,
        typer.Option(metavar="RATE", rich_help_panel=_DISCRIMINATOR, help="Peak learning rate."),
    ] = _D.lr,
    width: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_DISCRIMINATOR,
            help="Channels after the first layer of the net.",
        ),
    ] = _D.width,
    calibrate: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            rich_help_panel=_DISCRIMINATOR,
            help="temperature (chosen by the held-out distance of what it filters), platt, "
            "isotonic or none.",
        ),
    ] = _D.calibrate,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            rich_help_panel=_DISCRIMINATOR,
            help="A temperature of your own; below 1 is sharper.",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_FEATURES,
            help="A classifier whose features distances are taken in.",
        ),
    ] = None,
    features_arch: Annotated[
        str | None,
        typer.Option(metavar="NAME", rich_help_panel=_FEATURES, help="Its architecture."),
    ] = None,
    features_layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            rich_help_panel=_FEATURES,
            help="Module whose output is the feature; what the last linear layer reads if absent.",
        ),
    ] = None,
    features_mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,M,M", rich_help_panel=_FEATURES, help="Subtracted from inputs in [0, 1]."
        ),
    ] = None,
    features_std: Annotated[
        str | None,
        typer.Option(metavar="S,S,S", rich_help_panel=_FEATURES, help="Divided by after that."),
    ] = None,
    features_shape: Annotated[
        str | None,
        typer.Option(
            metavar="C,H,W", rich_help_panel=_FEATURES, help="What images are resized to for it."
        ),
    ] = None,
    proposal: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            rich_help_panel=_CHAINS,
            help="independent, walk (latents near the last) or encoder (images near the last).",
        ),
    ] = _D.proposal,
    step: Annotated[
        float,
        typer.Option(
            metavar="BETA",
            rich_help_panel=_CHAINS,
            help="How far a walk or encoder proposal goes; 1 forgets where it was.",
        ),
    ] = _D.step,
    samples: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_CHAINS, help="Images to deliver.")
    ] = _D.samples,
    chain_length: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            rich_help_panel=_CHAINS,
            help="Proposals offered to each chain: 640 over a bank if absent, else 100.",
        ),
    ] = None,
    bank: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_CHAINS,
            help="Proposals that are made and scored; 0 makes fresh ones for every step.",
        ),
    ] = _D.bank,
    held: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_CHAINS,
            help="Real images kept from the discriminator, for starts and choices.",
        ),
    ] = _D.held,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_CHAINS,
            help="Measure besides: drs, sir, ddls or none; may be repeated. drs and sir if absent.",
        ),
    ] = None,
    metric_samples: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_CHAINS, help="Most images on each side of a metric."
        ),
    ] = _D.metric_samples,
    trace: Annotated[
        bool,
        typer.Option(
            "--trace",
            rich_help_panel=_DISCRIMINATOR,
            help="Follow the metrics along the training of the net.",
        ),
    ] = False,
    no_onnx: Annotated[bool, typer.Option("--no-onnx", help="Write no ONNX files.")] = False,
    max_fid: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            rich_help_panel="Gates",
            help="Fail where the Frechet distance (the first extractor's) is larger.",
        ),
    ] = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    seed: opt.Seed = 0,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel="Gates", help="Write verdicts as JUnit XML."),
    ] = None,
) -> None:
    """Filter a pretrained generator by the implicit Metropolis-Hastings algorithm.

    A discriminator is trained for it after the fact; chains over its scores sample a distribution
    closer to the data. The report measures raw, filtered and real images side by side.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.mh_filter import mh_filter as run
    from bnnkit.run.mh_job import FeatureSource
    from bnnkit.spec.generator import GeneratorSpec, parse_latent, parse_range
    from bnnkit.spec.generator import parse_shape as parse_image_shape

    opt.require_data(data, "mh-filter")
    _require(model or arch, latent)
    kind, owner = discriminator, None
    if discriminator not in ("conv", "features", "combined"):
        _check_file(discriminator)
        kind = "owner"
    spec = GeneratorSpec(
        opt.model_spec(
            model, arch=arch, arch_arg=arch_arg, state_key=state_key, trust_pickle=trust_pickle,
            input_shape=None,
        ),
        parse_latent(latent or ""),
        None if out_range is None else parse_range(out_range),
        None if shape is None else parse_image_shape(shape),
        class_count,
        pixels,
    )  # fmt: skip
    if kind == "owner":
        owner = FeatureSource(
            opt.model_spec(
                discriminator, arch=discriminator_arch, arch_arg=None, state_key=None,
                trust_pickle=trust_pickle, input_shape=None,
            ),
            mean=None,
            std=None,
            option="--discriminator",
        )  # fmt: skip
    source = None
    if features is not None:
        source = FeatureSource(
            opt.model_spec(
                features, arch=features_arch, arch_arg=None, state_key=None,
                trust_pickle=trust_pickle, input_shape=features_shape,
            ),
            features_layer,
            opt.parse_numbers(features_mean, "--features-mean") or (0.0,),
            opt.parse_numbers(features_std, "--features-std") or (1.0,),
        )  # fmt: skip
    config = MhConfig(
        discriminator=kind,
        loss=loss,
        floor=floor,
        epochs=epochs,
        lr=lr,
        width=width,
        calibrate=calibrate,
        temperature=temperature,
        owner_output=discriminator_output,
        proposal=proposal,
        step=step,
        bank=bank,
        samples=samples,
        chain_length=chain_length,
        held=held,
        metric_samples=metric_samples,
        controls=_controls(compare),
        trace=trace,
        formats=() if no_onnx else ("onnx",),
        device=device,
        threads=threads,
        seed=seed,
    )
    options = GateOptions(max_fid=max_fid)
    report = run(
        spec,
        opt.data_spec(
            str(data), root=data_root, download=download, mean=None, std=None, normalize=None,
            classes=classes, limit=limit, augment="none", split_seed=seed,
            input_shape=input_shape,
        ),
        config,
        features=source,
        owner=owner,
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )  # fmt: skip
    closing = f"Run directory: {report.sections['out']}"
    conclude(report, options, as_json=as_json, junit=junit, closing=closing)


def _controls(names: list[str] | None) -> tuple[str, ...]:
    """Read `--compare`; `none` leaves all out."""
    if names is None:
        return _D.controls
    return tuple(dict.fromkeys(name for name in names if name != "none"))


def _require(model: str | None, latent: str | None) -> None:
    """Refuse a call without a generator or its latents.

    Raises:
        UsageError: One of them is missing.
    """
    for value, what, hint in (
        (model, "no generator", "Name its file, or fresh weights with --arch."),
        (latent, "no --latent", "Use --latent normal:64, or what it was trained with."),
    ):
        if value is None:
            raise UsageError("Filtering a generator", what, "it cannot be run without", hint)


def _check_file(text: str) -> None:
    """Refuse a kind of discriminator that is none, and no file either.

    Raises:
        UsageError: There is no such kind and no such file.
    """
    if not Path(text).exists():
        raise UsageError(
            "Reading --discriminator",
            repr(text),
            "there is no such kind, and no such file",
            did_you_mean(text, ("conv", "features", "combined")),
        )
