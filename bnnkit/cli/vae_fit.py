"""`bnnkit vae-fit`: train a variational autoencoder, continue one, or upgrade its posterior."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.groups import only, takes_groups, without
from bnnkit.cli.help import example
from bnnkit.cli.loop_options import Resume
from bnnkit.cli.vae_data import IMAGES
from bnnkit.cli.vae_options import VaeOptions
from bnnkit.errors import UsageError
from bnnkit.spec.vae_fit import (
    BINARY_OBJECTIVES,
    FIT_BINARISE,
    KL_SCHEDULES,
    OBJECTIVES,
    POSTERIORS,
    VaeFitConfig,
)

__all__ = ["EXAMPLE", "vae_fit"]

EXAMPLE = example(
    "bnnkit vae-fit --arch bnnkit:vae-mnist --arch-arg latent=10 --arch-arg in_features=64 "
    "--input-shape 1,8,8 --data digits --posterior full --epochs 20 --batch-size 64 --lr 3e-3",
    """
bnnkit vae-fit: bnnkit:vae-mnist

Note: The weights are fresh, from seed 0.
Note: A Bernoulli likelihood of binarised pixels: each is drawn once as 0 or 1 with its grey value as the probability (numpy PCG64, seed 20151119).
Note: no test part: 20% held out, seed 0

Training
         epoch   loss           KL
  first      1  31.27  0.3314 nats
  last      20  23.69   4.422 nats
  20 epochs, 8 s.

Evidence lower bound
                                                           value                   KL in it      n
  training data                     -23.40 nats [-23.62, -23.17]  4.156 nats [4.105, 4.206]  1,294
  held out                          -23.91 nats [-24.63, -23.19]     4.14 nats [3.99, 4.30]    144
  test                              -24.23 nats [-24.66, -23.79]     4.12 nats [4.01, 4.22]    359
  test NLL, 100 importance samples     23.68 nats [23.33, 24.03]                               359
  Brackets: 95% intervals over data. Effective importance samples: 43.8 of 100.

Trained
                                value
  posterior                      full
  objective                      elbo
  estimator                         B
  training data                 1,294
  epochs                           20
  weights kept of epoch            19
  parameters                   64,084
  parameters of the posterior  18,045

Run directory: vae-mnist-vae-fit
""",
)


_POSTERIOR = "Posterior and objective"
_SCHEDULE = "KL schedule"
_TRAINING = "Training"
_OUTPUT = "Measuring"
_DEFAULT = VaeFitConfig()


@dataclass(frozen=True)
class _Objective:
    """What is learned, and from what."""

    posterior: Annotated[
        str,
        typer.Option(
            metavar="FAMILY",
            rich_help_panel=_POSTERIOR,
            help=f"{', '.join(POSTERIORS)}; mn:20x2 reads 40 latents as a matrix, hvi:5, iaf:2, "
            "planar:10 and realnvp:4 say how many transitions (flows need zuko).",
        ),
    ] = _DEFAULT.posterior
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_POSTERIOR,
            help=f"{', '.join(OBJECTIVES)}; of binary latents {', '.join(BINARY_OBJECTIVES)}.",
        ),
    ] = _DEFAULT.objective
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="A|B",
            rich_help_panel=_POSTERIOR,
            help="Divergence from samples (A) or in closed form (B); B where there is one.",
        ),
    ] = _DEFAULT.estimator
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            rich_help_panel=_POSTERIOR,
            help="Latents drawn for a datum in a step; 1, of iwae and alpha 5, of binary ones 20.",
        ),
    ] = _DEFAULT.samples
    beta: Annotated[
        float,
        typer.Option(metavar="B", rich_help_panel=_POSTERIOR, help="Weight of --objective beta."),
    ] = _DEFAULT.beta
    alpha: Annotated[
        float,
        typer.Option(
            metavar="A",
            rich_help_panel=_POSTERIOR,
            help="Order of --objective alpha, the Rényi bound: 1 is the ELBO, 0 the IWAE.",
        ),
    ] = _DEFAULT.alpha
    refine: Annotated[
        int,
        typer.Option(
            metavar="K",
            rich_help_panel=_POSTERIOR,
            help="Refine each datum's posterior by K steps before a step of learning.",
        ),
    ] = _DEFAULT.refine
    refine_lr: Annotated[
        float,
        typer.Option(
            metavar="RATE", rich_help_panel=_POSTERIOR, help="Rate of these steps, per datum."
        ),
    ] = _DEFAULT.refine_lr
    freeze: Annotated[
        str,
        typer.Option(
            metavar="PART",
            rich_help_panel=_POSTERIOR,
            help="decoder leaves it as it is, bit for bit; or none.",
        ),
    ] = _DEFAULT.freeze
    full_vb: Annotated[
        bool,
        typer.Option(
            "--full-vb",
            rich_help_panel=_POSTERIOR,
            help="Learn a posterior over the decoder's weights as well.",
        ),
    ] = _DEFAULT.full_vb


@dataclass(frozen=True)
class _Schedule:
    """How the weight of the divergence grows."""

    kl_schedule: Annotated[
        str,
        typer.Option(
            metavar="NAME", rich_help_panel=_SCHEDULE, help=f"{', '.join(KL_SCHEDULES)}."
        ),
    ] = _DEFAULT.kl_schedule
    kl_epochs: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_SCHEDULE, help="Epochs that it takes, or of a cycle."
        ),
    ] = _DEFAULT.kl_epochs
    beta0: Annotated[
        float, typer.Option(metavar="B", rich_help_panel=_SCHEDULE, help="Weight at the start.")
    ] = _DEFAULT.beta0
    gamma: Annotated[
        float,
        typer.Option(metavar="G", rich_help_panel=_SCHEDULE, help="Rise an epoch, of warm-up."),
    ] = _DEFAULT.gamma


@dataclass(frozen=True)
class _Loop:
    """How the training runs."""

    binarise: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            rich_help_panel="Autoencoder",
            help=f"{', '.join(FIT_BINARISE)}: drawn once with a fixed seed, cut at a half, left "
            "grey, or drawn anew in each epoch; bernoulli for a Bernoulli likelihood if absent.",
        ),
    ] = _DEFAULT.binarise
    validation: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=_TRAINING,
            help="Share of the training data held out; the weights that are best there are kept.",
        ),
    ] = _DEFAULT.validation
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=_TRAINING,
            help="Stop after N epochs without a better bound on data held out.",
        ),
    ] = _DEFAULT.patience
    epochs: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_TRAINING, help="Passes over the data, at most."
        ),
    ] = _DEFAULT.epochs
    batch_size: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_TRAINING, help="Images per step.")
    ] = _DEFAULT.batch_size
    lr: Annotated[
        float, typer.Option(metavar="RATE", rich_help_panel=_TRAINING, help="Rate of Adam.")
    ] = _DEFAULT.lr
    weight_decay: Annotated[
        float,
        typer.Option(metavar="X", rich_help_panel=_TRAINING, help="Decoupled decay of weights."),
    ] = _DEFAULT.weight_decay


@dataclass(frozen=True)
class _Measuring:
    """What is measured at the end."""

    nll_samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_OUTPUT,
            help="Importance samples of the test NLL; 0 leaves it out.",
        ),
    ] = _DEFAULT.nll_samples
    nll_limit: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_OUTPUT, help="First test images that it is measured on."
        ),
    ] = _DEFAULT.nll_limit


@takes_groups
def vae_fit(
    model: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint or run to continue; fresh weights without one."),
    ] = None,
    *,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel="Model", help="The same as MODEL, as an option."
        ),
    ] = None,
    source: opt.ModelOptions,
    data: Annotated[opt.DataOptions, only(*IMAGES)],
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            rich_help_panel="Data",
            help="Use the first N images of each part, in their order.",
        ),
    ] = None,
    vae: Annotated[VaeOptions, without("binarise")],
    objective: _Objective,
    schedule: _Schedule,
    loop: _Loop,
    measuring: _Measuring,
    resume: Resume = False,
    device: opt.Device = _DEFAULT.device,
    threads: opt.Threads = _DEFAULT.threads,
    seed: opt.Seed = _DEFAULT.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Train a variational autoencoder, continue one, or upgrade its posterior.

    A richer posterior starts at the encoder's own Gaussian, so that an upgrade begins where the
    checkpoint ended. The bound and the NLL are measured with the posterior that was trained.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.vae_fit import vae_fit as run

    if model is not None and init is not None:
        raise UsageError(
            "Reading the model", f"{str(model)!r} and --init {str(init)!r}",
            "both say where training starts", "Leave one of them out.",
        )  # fmt: skip
    config = VaeFitConfig(
        **vars(objective), **vars(schedule), **vars(loop), **vars(measuring),
        device=device, threads=threads, seed=seed,
    )  # fmt: skip
    report = run(
        vae.spec(source.spec(model or init)),
        replace(data.spec("vae-fit", split_seed=seed), limit=limit),
        config,
        out=out,
        resume=resume,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(report, as_json=as_json, closing=f"Run directory: {report.sections['out']}")
