"""`bnnkit mh-filter`: a pretrained generator corrected by implicit Metropolis-Hastings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bnnkit.cli import mh_filter_options as mh
from bnnkit.cli import options as opt
from bnnkit.cli.groups import takes_groups, without
from bnnkit.cli.help import example
from bnnkit.errors import UsageError, did_you_mean
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.mh import MhConfig

if TYPE_CHECKING:
    from bnnkit.run.filtering.judges import FeatureSource

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
  its training                                              1,560 steps, 40.1 s
  its calibration                                          temperature, T = 0.9
  AUC, held out                                          78.73 % [78.10, 79.35]  20,000
  NLL, held out                                    0.5523 nats [0.5462, 0.5584]  20,000
  ECE, held out                                                        0.8187 %  20,000
  bank                                 200,000 proposals made, 3.29 s, 60,796/s
  ESS of their weights                                          45,878 (22.9 %)
  proposals                                                         independent
  chains                                                   10,000 of length 640
  acceptance                                                             46.4 %       -
  acceptance from real images                                            43.2 %       -
  TV of generator and data, Theorem 1          0.568 (1 - acceptance from real)
  chains that never moved                                    0.1 %, 6 restarted
  distinct samples                                                       92.1 %
  speed of the chains alone                                            23,749/s
  the whole command                                 87.1 s of CPU time in 194 s
  Loss of held-out pairs (d ≥ 0.01): -0.2826 nats. The bound of TV² from it is 1.34e+06 x 0.0823 nats = 1.1e+05, vacuous: no distance exceeds 1.

By length of the chain
  length  accepted, %  unmoved, %  FID, classifier  IS, classifier  FID, pixels, PCA-50
       1         43.6        56.0            52.18            8.09                 1.54
       5         44.6        21.3            19.20            8.82                 0.54
      20         45.5         5.7             7.83            9.04                 0.35
      40         46.4         2.4             6.14            9.08                 0.37
     160         46.7         0.4             5.84            9.09                 0.36
     640         46.4         0.1             4.36            9.09                 0.32

Samplers: variety and cost
  sampler                           TV of classes  accepted, %  distinct, %  time, s  KID, classifier  KID, pixels, PCA-50
  as the generator makes them               0.329            -            -        -     233.9 ± 34.4        0.135 ± 0.015
  filtered (delivered)                      0.050         46.4         92.1    0.421      5.43 ± 5.29      0.0034 ± 0.0019
  discriminator rejection sampling          0.126         19.4        100.0    0.068                -                    -
  sampling-importance-resampling            0.049            -         91.5    0.036                -                    -
  real training images (floor)              0.017            -            -        -      0.21 ± 5.03      0.0029 ± 0.0021
  TV of classes: total variation of the class shares from the test images'.

Samplers side by side
  sampler                           FID, classifier  IS, classifier  precision, classifier  recall, classifier  FID, pixels, PCA-50  precision, pixels, PCA-50  recall, pixels, PCA-50  rarest class, %  commonest, %
  as the generator makes them                127.12            6.73                   0.86                0.83                 4.45                       0.89                    0.76              2.1          33.0
  filtered (delivered)                         4.36            9.09                   0.84                0.84                 0.32                       0.85                    0.78              8.1          11.9
  discriminator rejection sampling            26.10            8.65                      -                   -                 0.69                          -                       -              4.4          14.8
  sampling-importance-resampling               4.93            9.16                      -                   -                 0.34                          -                       -              7.7          12.2
  real training images (floor)                 1.06            9.79                   0.88                0.88                 0.21                       0.87                    0.89              8.3          11.5
  n = 10,000. Floor: real training images against the test images, as good as can be.

The Frechet distance in classifier falls from 127 to 4.36 (real images: 1.1).
The Frechet distance in pixels, PCA-50 falls from 4.45 to 0.321 (real images: 0.21).
The temperature was chosen by distances of held-out training images in these features; the test images had no part in it.

Checks on real inputs
  form                  worst difference  tolerance  unit       n  verdict
  generator = onnx               1.8e-06     0.0001  relative  64  pass
  discriminator = onnx           5.8e-07     0.0001  relative  64  pass

Run directory: gen-mh-filter
""",
)

_D = MhConfig()
_KINDS = ("conv", "features", "combined")


@takes_groups
def mh_filter(
    model: mh.GeneratorFile = None,
    *,
    generator: Annotated[opt.ModelOptions, without("input_shape")],
    latent: mh.Latent = None,
    out_range: mh.OutRange = None,
    shape: mh.Shape = None,
    class_count: mh.Conditional = None,
    pixels: mh.Pixels = "mean",
    data: Annotated[opt.DataOptions, without("mean", "std", "normalize", "augment")],
    input_shape: opt.InputShape = None,
    discriminator: mh.Discriminator = _D.discriminator,
    discriminator_arch: mh.DiscriminatorArch = None,
    discriminator_output: mh.DiscriminatorOutput = _D.owner_output,
    loss: mh.Loss = _D.loss,
    floor: mh.Floor = _D.floor,
    epochs: mh.Epochs = _D.epochs,
    lr: mh.LearningRate = _D.lr,
    width: mh.Width = _D.width,
    calibrate: mh.Calibrate = _D.calibrate,
    temperature: mh.Temperature = None,
    features: mh.FeatureOptions,
    proposal: mh.Proposal = _D.proposal,
    step: mh.Step = _D.step,
    samples: mh.Samples = _D.samples,
    chain_length: mh.ChainLength = None,
    bank: mh.Bank = _D.bank,
    held: mh.Held = _D.held,
    compare: mh.Compare = None,
    metric_samples: mh.MetricSamples = _D.metric_samples,
    trace: mh.Trace = False,
    no_onnx: mh.NoOnnx = False,
    max_fid: mh.MaxFid = None,
    device: opt.Device = "auto",
    threads: opt.Threads = None,
    seed: opt.Seed = 0,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    junit: mh.Junit = None,
) -> None:
    """Filter a pretrained generator by the implicit Metropolis-Hastings algorithm.

    A discriminator is trained for it after the fact; chains over its scores sample a distribution
    closer to the data. The report measures raw, filtered and real images side by side.
    """
    from bnnkit.run.filtering.cost import Stopwatch

    clock = Stopwatch()
    with clock.phase("start"):
        from bnnkit.cli.console import progress_reporter
        from bnnkit.cli.outcome import conclude
        from bnnkit.run.mh_filter import mh_filter as run
        from bnnkit.spec.generator import GeneratorSpec, parse_latent, parse_range
        from bnnkit.spec.generator import parse_shape as parse_image_shape

    real = data.spec("mh-filter", split_seed=seed, input_shape=input_shape)
    _require(model or generator.arch, latent)
    kind = discriminator if discriminator in _KINDS else "owner"
    spec = GeneratorSpec(
        generator.spec(model),
        parse_latent(latent or ""),
        None if out_range is None else parse_range(out_range),
        None if shape is None else parse_image_shape(shape),
        class_count,
        pixels,
    )
    owner = _owner(discriminator, discriminator_arch, discriminator_output, generator.trust_pickle)
    source = _features(features, generator.trust_pickle)
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
        replace(real, augment="none"),
        config,
        features=source,
        owner=owner,
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        clock=clock,
        argv=sys.argv,
    )
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


def _owner(text: str, arch: str | None, output: str, trust: bool) -> FeatureSource | None:
    """Read the options of the owner's discriminator; None for one that is made now.

    Raises:
        UsageError: There is no such kind and no such file, or options of a file without one.
    """
    from bnnkit.run.filtering.judges import FeatureSource

    if text in _KINDS:
        _refuse_unused(
            f"--discriminator {text}",
            "it is made now, and no file",
            {"--discriminator-arch": arch,
             "--discriminator-output": None if output == _D.owner_output else output},
        )  # fmt: skip
        return None
    if not Path(text).exists():
        raise UsageError(
            "Reading --discriminator",
            repr(text),
            "there is no such kind, and no such file",
            did_you_mean(text, _KINDS),
        )
    model = opt.ModelOptions(arch=arch, trust_pickle=trust).spec(text)
    return FeatureSource(model, mean=None, std=None, option="--discriminator")


def _features(given: mh.FeatureOptions, trust: bool) -> FeatureSource | None:
    """Read the options of the features; None without any.

    Raises:
        UsageError: One cannot be read, or there is no file that it is of.
    """
    from bnnkit.run.filtering.judges import FeatureSource

    if given.features is None:
        options = {f"--{name.replace('_', '-')}": value for name, value in vars(given).items()}
        _refuse_unused("no --features", "there is no file that it is of", options)
        return None
    try:
        read = opt.ModelOptions(
            given.features_arch, trust_pickle=trust, input_shape=given.features_shape
        )
        model = read.spec(given.features)
    except UsageError as error:  # of a shape, which other commands call by another name
        parts = (error.what, error.found, error.why, error.hint)
        raise UsageError(
            *(p.replace("--input-shape", "--features-shape") for p in parts)
        ) from None
    return FeatureSource(
        model,
        given.features_layer,
        opt.parse_numbers(given.features_mean, "--features-mean") or (0.0,),
        opt.parse_numbers(given.features_std, "--features-std") or (1.0,),
    )


def _refuse_unused(found: str, why: str, options: dict[str, str | None]) -> None:
    """Refuse options that would be ignored."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(
                f"Using {name} {value}", found, why, "Leave it out, or name the file."
            )
