"""`bnnkit vae-eval`: how good a pretrained variational autoencoder is, and its posterior."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import VERDICT, GateFlags
from bnnkit.cli.groups import only, takes_groups
from bnnkit.cli.help import example
from bnnkit.cli.vae_data import IMAGES, FirstTest
from bnnkit.cli.vae_options import VaeOptions
from bnnkit.spec.vae_eval import VaeEvalConfig

__all__ = ["EXAMPLE", "vae_eval"]

EXAMPLE = example(
    "bnnkit vae-eval vae.pth --data mnist --data-root data --limit 100",
    """
bnnkit vae-eval: vae.pth

Note: The weights are the entry 'state_dict' of a training checkpoint.
Note: The names fc1, fc21, fc22, fc3 and fc4 are those of PyTorch's own example: 784-400-20, rectified linear (--arch-arg activation=softplus says otherwise), with Bernoulli probabilities from a sigmoid.
Note: fc22 is taken as the log variance, as in PyTorch's example; --variance-is says otherwise.
Note: A Bernoulli likelihood of binarised pixels: each is drawn once as 0 or 1 with its grey value as the probability (numpy PCG64, seed 20151119).

Measured
                        value    n
  NLL  94.2 nats [88.8, 99.5]  100
  Brackets: 95% intervals.

Bound
                                       value    n
  evidence bound  -99.2 nats [-104.8, -93.6]  100
  log p(x | z)     -73.1 nats [-78.2, -68.1]  100
  KL(q || p)       26.05 nats [25.30, 26.80]  100
  Posterior: encoder. 100 draws a datum, standard error 0.050 nats; KL in closed form. Brackets: 95% intervals over data.

Likelihood by importance sampling
  samples of  samples           minus log p(x)  error of draws  ESS, median  k-hat, median  k-hat > 0.7
  encoder         100  94.7 nats [89.3, 100.0]           0.053            -              -            -
  encoder         500   94.2 nats [88.8, 99.5]           0.049          7.7           1.16       95.0 %
  An estimate falls towards its limit with more samples; where k-hat is above 0.7 it is still falling. Brackets: 95% intervals over data.

Latents
  latent  KL, nats  variance of means
  7          2.056              1.059
  2          1.849              1.178
  3          1.823              0.881
  14         1.778              0.715
  12         1.671              1.036
  4          1.581              0.784
  11         1.558              1.187
  16         1.294              0.988
  20 of 20 are active. Of the divergence, 4.61 nats tell data apart (n = 100 can show 4.61 at most), and 21.50 part their aggregate posterior from the prior.

Run directory: vae-vae-eval
""",
)

_PANEL = "Evaluation"
_DEFAULT = VaeEvalConfig()


@takes_groups
def vae_eval(
    model: Annotated[
        Path, typer.Argument(help="The checkpoint, or a run directory; it is not changed.")
    ],
    *,
    source: opt.ModelOptions,
    data: Annotated[opt.DataOptions, only(*IMAGES)],
    vae: VaeOptions,
    refined: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            rich_help_panel=_PANEL,
            help="Take the posteriors of a run of vae-refine, in place of the model's own.",
        ),
    ] = None,
    limit: FirstTest = _DEFAULT.limit or 0,
    samples: Annotated[
        str,
        typer.Option(
            metavar="N,N",
            rich_help_panel=_PANEL,
            help="Importance samples of a datum; a row for each number.",
        ),
    ] = ",".join(map(str, _DEFAULT.samples)),
    elbo_samples: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_PANEL, help="Draws behind the bound of a datum."
        ),
    ] = _DEFAULT.elbo_samples,
    ais: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_PANEL,
            help="Run annealed importance sampling on the first N of them; slow, and for continuous "
            "latents only.",
        ),
    ] = _DEFAULT.ais,
    ais_temperatures: Annotated[
        int,
        typer.Option(metavar="N", rich_help_panel=_PANEL, help="Its steps from the prior."),
    ] = _DEFAULT.ais_temperatures,
    ais_chains: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Its chains of a datum.")
    ] = _DEFAULT.ais_chains,
    latents_shown: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_PANEL, help="Latents that are traversed in pictures."
        ),
    ] = _DEFAULT.latents_shown,
    batch_size: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Data at once.")
    ] = _DEFAULT.batch_size,
    device: opt.Device = _DEFAULT.device,
    threads: opt.Threads = _DEFAULT.threads,
    seed: opt.Seed = _DEFAULT.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    gates: Annotated[GateFlags, only("max_nll", *VERDICT)],
) -> None:
    """Judge a pretrained VAE: bound, likelihood by importance sampling, latents, pictures.

    The two layers of PyTorch's own example (fc1, fc21, fc22, fc3, fc4) are known by their names;
    other files need --arch. What was assumed is said. Latents may be binary (belief nets). Of a run
    of vae-fit the posterior that it trained is judged, beside the encoder's Gaussian.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.vae_eval import vae_eval as run

    config = VaeEvalConfig(
        limit=limit or None,
        elbo_samples=elbo_samples,
        samples=opt.parse_counts(samples, "--samples"),
        ais=ais,
        ais_temperatures=ais_temperatures,
        ais_chains=ais_chains,
        latents_shown=latents_shown,
        batch_size=batch_size,
        device=device,
        threads=threads,
        seed=seed,
    )
    options = gates.options()
    report = run(
        vae.spec(source.spec(model)),
        data.spec("vae-eval", split_seed=seed),
        config,
        refined=refined,
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    closing = f"Run directory: {report.sections['out']}"
    conclude(report, options, as_json=as_json, junit=gates.junit, closing=closing)
