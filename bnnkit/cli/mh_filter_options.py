"""The options of `mh-filter`, declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Bank",
    "Calibrate",
    "ChainLength",
    "Compare",
    "Conditional",
    "Discriminator",
    "DiscriminatorArch",
    "DiscriminatorOutput",
    "Epochs",
    "FeatureOptions",
    "Floor",
    "GeneratorFile",
    "Held",
    "Junit",
    "Latent",
    "LearningRate",
    "Loss",
    "MaxFid",
    "MetricSamples",
    "NoOnnx",
    "OutRange",
    "Pixels",
    "Proposal",
    "Samples",
    "Shape",
    "Step",
    "Temperature",
    "Trace",
    "Width",
]

_GENERATOR = "Generator"
_DISCRIMINATOR = "Discriminator"
_FEATURES = "Features"
_CHAINS = "Chains"

GeneratorFile = Annotated[
    str | None,
    typer.Argument(
        metavar="generator",
        help="TorchScript, .pt2, ONNX, a run directory, or tensors with --arch.",
        show_default=False,
    ),
]
Latent = Annotated[
    str | None,
    typer.Option(
        metavar="DIST:SIZE",
        rich_help_panel=_GENERATOR,
        help="What it is fed with: normal:64, normal:100x1x1, uniform:64 on [-1, 1], unit:64 "
        "on [0, 1], or file.py:sampler.",
    ),
]
OutRange = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        rich_help_panel=_GENERATOR,
        help="Outputs of black and white: -1,1, 0,1, 0,255 or logits; read off the outputs "
        "where they leave no doubt.",
    ),
]
Shape = Annotated[
    str | None,
    typer.Option(
        metavar="C,H,W",
        rich_help_panel=_GENERATOR,
        help="Shape of one image, where the outputs are flat.",
    ),
]
Conditional = Annotated[
    int | None,
    typer.Option(
        "--conditional",
        metavar="N",
        rich_help_panel=_GENERATOR,
        help="It is told one of N classes; chains are run for each.",
    ),
]
Pixels = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        rich_help_panel=_GENERATOR,
        help="Of a decoder: its mean is the image, or Bernoulli pixels are sampled from it.",
    ),
]
Discriminator = Annotated[
    str,
    typer.Option(
        metavar="KIND|FILE",
        rich_help_panel=_DISCRIMINATOR,
        help="conv: a net trained now; features: a regression on --features; combined: both; "
        "or the file of the discriminator that the generator was trained against.",
    ),
]
DiscriminatorArch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=_DISCRIMINATOR, help="Architecture of that file."
    ),
]
DiscriminatorOutput = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_DISCRIMINATOR,
        help="What that file gives: logit, probability, or auto.",
    ),
]
Loss = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_DISCRIMINATOR,
        help="bce, mce (pairwise logistic) or ub (the upper bound of the paper).",
    ),
]
Floor = Annotated[
    float,
    typer.Option(
        metavar="B",
        rich_help_panel=_DISCRIMINATOR,
        help="b of d, which is kept between b and 1, for ub.",
    ),
]
Epochs = Annotated[
    float,
    typer.Option(
        metavar="N",
        rich_help_panel=_DISCRIMINATOR,
        help="Passes over the real images; part of one is allowed.",
    ),
]
LearningRate = Annotated[
    float,
    typer.Option(metavar="RATE", rich_help_panel=_DISCRIMINATOR, help="Peak learning rate."),
]
Width = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=_DISCRIMINATOR,
        help="Channels after the first layer of the net.",
    ),
]
Calibrate = Annotated[
    str,
    typer.Option(
        metavar="HOW",
        rich_help_panel=_DISCRIMINATOR,
        help="temperature (chosen by the held-out distance of what it filters), platt, "
        "isotonic or none.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="T",
        rich_help_panel=_DISCRIMINATOR,
        help="A temperature of your own; below 1 is sharper.",
    ),
]
Features = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_FEATURES,
        help="A classifier whose features distances are taken in.",
    ),
]
FeaturesArch = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=_FEATURES, help="Its architecture."),
]
FeaturesLayer = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        rich_help_panel=_FEATURES,
        help="Module whose output is the feature; what the last linear layer reads if absent.",
    ),
]
FeaturesMean = Annotated[
    str | None,
    typer.Option(
        metavar="M,M,M", rich_help_panel=_FEATURES, help="Subtracted from inputs in [0, 1]."
    ),
]
FeaturesStd = Annotated[
    str | None,
    typer.Option(metavar="S,S,S", rich_help_panel=_FEATURES, help="Divided by after that."),
]
FeaturesShape = Annotated[
    str | None,
    typer.Option(
        metavar="C,H,W", rich_help_panel=_FEATURES, help="What images are resized to for it."
    ),
]
Proposal = Annotated[
    str,
    typer.Option(
        metavar="KIND",
        rich_help_panel=_CHAINS,
        help="independent, walk (latents near the last) or encoder (images near the last).",
    ),
]
Step = Annotated[
    float,
    typer.Option(
        metavar="BETA",
        rich_help_panel=_CHAINS,
        help="How far a walk or encoder proposal goes; 1 forgets where it was.",
    ),
]
Samples = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_CHAINS, help="Images to deliver.")
]
ChainLength = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        rich_help_panel=_CHAINS,
        help="Proposals offered to each chain: 640 over a bank if absent, else 100.",
    ),
]
Bank = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=_CHAINS,
        help="Proposals that are made and scored; 0 makes fresh ones for every step.",
    ),
]
Held = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=_CHAINS,
        help="Real images kept from the discriminator, for starts and choices.",
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_CHAINS,
        help="Measure besides: drs, sir, ddls or none; may be repeated. drs and sir if absent.",
    ),
]
MetricSamples = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=_CHAINS, help="Most images on each side of a metric."
    ),
]
Trace = Annotated[
    bool,
    typer.Option(
        "--trace",
        rich_help_panel=_DISCRIMINATOR,
        help="Follow the metrics along the training of the net.",
    ),
]
NoOnnx = Annotated[bool, typer.Option("--no-onnx", help="Write no ONNX files.")]
MaxFid = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel="Gates",
        help="Fail where the Frechet distance (the first extractor's) is larger.",
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(metavar="FILE", rich_help_panel="Gates", help="Write verdicts as JUnit XML."),
]


@dataclass(frozen=True)
class FeatureOptions:
    """A classifier whose features distances are taken in, and what it is fed with."""

    features: Features = None
    features_arch: FeaturesArch = None
    features_layer: FeaturesLayer = None
    features_mean: FeaturesMean = None
    features_std: FeaturesStd = None
    features_shape: FeaturesShape = None
