"""`bnnkit avo-toy`: annealed variational objectives on energies in the plane."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.help import example
from bnnkit.spec.avo import METHODS, SCHEDULES, AvoToyConfig

__all__ = ["EXAMPLE", "avo_toy"]

EXAMPLE = example(
    "bnnkit avo-toy d --method elbo --method avo",
    """
bnnkit avo-toy: energy d

Approximations
  method   modes  TV of weights              bound on log Z    gap  log Z by weights  ESS share  CPU s
  elbo    4 of 4          0.139  -0.3253 [-0.3332, -0.3174]  0.325             0.007       0.37   13.9
  avo     4 of 4          0.035  -0.2983 [-0.3059, -0.2906]  0.298             0.007       0.51   10.7
  log Z is 0.0000 by integration; nats. The gap is the divergence KL(q || f/Z), of a chain in the space of its walks. Bracket: 95% interval.

Share of draws in each mode
                  mode 0  mode 1  mode 2  mode 3
  by integration   0.400   0.300   0.200   0.100
  elbo             0.468   0.371   0.120   0.040
  avo              0.375   0.291   0.214   0.121

Trained with biased noise
  method   modes  TV of weights              bound on log Z    gap  log Z by weights  ESS share  CPU s
  elbo    1 of 4          0.696  -1.1984 [-1.2001, -1.1966]  1.198            -0.785       0.00   13.8
  avo     4 of 4          0.198     -0.718 [-0.730, -0.706]  0.718            -0.005       0.37   11.1
  The gradient of log f has noise of mean 3.0 towards one side, which fades over the first half of the training; what is judged is f itself.

ELBO covers 4 of 4 modes (TV of weights 0.139, gap 0.325 nats), AVO 4 of 4 modes (TV of weights 0.035, gap 0.298 nats).
With biased noise: ELBO covers 1 of 4 modes (TV of weights 0.696, gap 1.198 nats), AVO 4 of 4 modes (TV of weights 0.198, gap 0.718 nats).

Run directory: avo-toy-d
""",
    more="All methods with --method left out.",
)

_MODELS = "Chains"
_TRAINING = "Training"
_DEFAULT = AvoToyConfig()


def avo_toy(
    energy: Annotated[
        str, typer.Argument(help="a to f, densities in the plane; d has four modes.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_TRAINING,
            help=f"One to train, and again for more: {', '.join(METHODS)}; all if left out.",
        ),
    ] = None,
    transitions: Annotated[
        int, typer.Option(metavar="T", rich_help_panel=_MODELS, help="Transitions of a chain.")
    ] = _DEFAULT.transitions,
    hidden: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_MODELS, help="Width of their networks.")
    ] = _DEFAULT.hidden,
    schedule: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_MODELS,
            help=f"The path of the annealed targets: {', '.join(SCHEDULES)}.",
        ),
    ] = _DEFAULT.schedule,
    spread: Annotated[
        float,
        typer.Option(
            metavar="SD",
            rich_help_panel=_MODELS,
            help="Deviation of the Gaussian they start from.",
        ),
    ] = _DEFAULT.spread,
    spacing: Annotated[
        float,
        typer.Option(metavar="X", help="How many times as far the modes of energy d lie."),
    ] = _DEFAULT.spacing,
    steps: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_TRAINING, help="Gradient steps of each method."
        ),
    ] = _DEFAULT.steps,
    batch_size: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_TRAINING, help="Draws in one step.")
    ] = _DEFAULT.batch_size,
    lr: Annotated[
        float, typer.Option(metavar="RATE", rich_help_panel=_TRAINING, help="Learning rate.")
    ] = _DEFAULT.lr,
    warm: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            rich_help_panel=_TRAINING,
            help="Share of the steps in which alpha and beta rise, and avo+elbo explores.",
        ),
    ] = _DEFAULT.warm,
    bias: Annotated[
        float,
        typer.Option(
            metavar="NATS",
            rich_help_panel=_TRAINING,
            help="Mean of the noise in the gradient of the energy, for a second training of elbo "
            "and avo; 0 for none.",
        ),
    ] = _DEFAULT.bias,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Draws that each method is judged by.")
    ] = _DEFAULT.samples,
    threads: opt.Threads = _DEFAULT.threads,
    seed: opt.Seed = _DEFAULT.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
) -> None:
    """Approximate a 2-D energy by annealed variational objectives, their rivals and flows.

    Each is held against the truth by integration: modes, their weights, log Z. The densities stand
    side by side in densities.png and on the page.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.avo_toy import avo_toy as run

    config = AvoToyConfig(
        methods=tuple(method or METHODS),
        transitions=transitions,
        hidden=hidden,
        schedule=schedule,
        spread=spread,
        spacing=spacing,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warm=warm,
        bias=bias,
        samples=samples,
        threads=threads,
        seed=seed,
    )
    report = run(energy, config, out=out, force=force, progress=progress_reporter(), argv=sys.argv)
    conclude(report, as_json=as_json, closing=f"Run directory: {report.sections['out']}")
