"""`bnnkit mh-proposal`: learn an independent proposal for a density, and sample with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bnnkit.cli import options as opt
from bnnkit.cli.gate_options import CHAINS, VERDICT, GateFlags
from bnnkit.cli.groups import only, takes_groups
from bnnkit.cli.help import example
from bnnkit.spec.proposal import FAMILIES, OBJECTIVES, ProposalConfig

__all__ = ["EXAMPLE", "mh_proposal"]

EXAMPLE = example(
    "bnnkit mh-proposal mixture6 --family diagonal --objective vi --max-rhat 1.01",
    """
bnnkit mh-proposal: mixture6

Training
   step  objective  acceptance
     20     -11.69           -
    520     -5.955           -
  1,000     -2.213           -
  diagonal proposal, objective vi (nats, maximised), 59.4 s with its walks.

Chains under the frozen proposal
                                                       value
  acceptance                            0.125 [0.063, 0.188]
  acceptance of chains that moved                      0.617
  bulk ESS, least coordinate                              65
  bulk ESS, median coordinate                             65
  ESS per draw, least                                  0.001
  ESS per second, least                                   26
  R-hat, largest                                     11.0034
  chains that never moved                                 51
  ESS of the weights p/q, per proposal                 0.082
  shape of their tail (Pareto k)                        0.38
  time to sample                                      2.48 s
  64 chains of 2,000 draws, 2 coordinates. Bracket: 95% interval over chains.

Modes
  mode  share, %  true, %
  0        99.95    16.67
  1         0.02    16.67
  2         0.00    16.67
  3         0.00    16.67
  4         0.00    16.67
  5         0.03    16.67
  1 of 6 modes, total variation 0.8329, of 26,000 draws that the proposal made: a chain that stands at its start does not count.

Bias
                                                 value
  |mean - reference mean|, largest           0.1468 sd
  the same, mean over coordinates            0.1000 sd
  Monte-Carlo error of a mean, largest       0.1251 sd
  that of the reference                      0.0000 sd
  sd / reference sd                     0.952 to 1.005
  Reference: closed form. Largest at coordinate 1.

Not good, although 62% of proposals are accepted by the chains that move: the proposal misses 5 of 6 modes (total variation of the shares 0.833); 51 of 64 chains never left their start, so the density there is far above the proposal's: it misses that part; R-hat is 11 (coordinate 1), above 1.01; the least bulk ESS is 65, below 400.
Checked: 64 chains from N(0, 10²) starts in each coordinate and 500 Langevin steps of their own; R-hat between them, the tail of the weights, the shares of the known modes, the means against the reference.

Gates
  gate       limit  measured  verdict
  max-rhat  ≤ 1.01        11  fail

Run directory: mixture6-mh-proposal
""",
    more="Exit code 3. Without --family and --objective: six modes of six, acceptance 0.99.",
)

_TARGET = "Target"
_PROPOSAL = "Proposal"
_CHAINS = "Chains"
_DEFAULT = ProposalConfig()


@takes_groups
def mh_proposal(
    target: Annotated[
        str,
        typer.Argument(
            help="mixture6, logreg:breast-cancer, logreg:FILE.csv, logreg:FILE.npz, or "
            "file.py:log_prob, which takes [n, dim] and returns [n].",
        ),
    ],
    dim: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, rich_help_panel=_TARGET, help="Coordinates of file.py:log_prob."
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_TARGET,
            help="Column or array with the label; else one called label, target, y, class or "
            "outcome, else the last column.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=_TARGET,
            help='JSON with the true "mean" and "sd", which the samples are held against.',
        ),
    ] = None,
    family: Annotated[
        str,
        typer.Option(
            metavar="NAME", rich_help_panel=_PROPOSAL, help=f"{', '.join(FAMILIES)} (zuko)."
        ),
    ] = _DEFAULT.family,
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel=_PROPOSAL,
            help=f"{', '.join(OBJECTIVES)}: reverse KL, the acceptance rate, its bound (the "
            "symmetric KL), or the forward KL.",
        ),
    ] = _DEFAULT.objective,
    components: Annotated[
        int,
        typer.Option(metavar="K", rich_help_panel=_PROPOSAL, help="Components of the mixture."),
    ] = _DEFAULT.components,
    steps: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_PROPOSAL, help="Training steps.")
    ] = _DEFAULT.steps,
    batch_size: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_PROPOSAL, help="Proposals in one step.")
    ] = _DEFAULT.batch_size,
    lr: Annotated[
        float, typer.Option(metavar="RATE", rich_help_panel=_PROPOSAL, help="Learning rate.")
    ] = _DEFAULT.lr,
    minibatch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=_PROPOSAL,
            help="Data rows behind one gradient, where the target is a sum over data.",
        ),
    ] = _DEFAULT.minibatch,
    training_chains: Annotated[
        int,
        typer.Option(
            metavar="N", rich_help_panel=_PROPOSAL, help="Walks and chains beside the training."
        ),
    ] = _DEFAULT.training_chains,
    spread: Annotated[
        float,
        typer.Option(
            metavar="SD",
            rich_help_panel=_CHAINS,
            help="Deviation of the starts around the origin: wider than the target.",
        ),
    ] = _DEFAULT.spread,
    walk_steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            rich_help_panel=_CHAINS,
            help="Langevin steps that bring each start to a typical place.",
        ),
    ] = _DEFAULT.walk_steps,
    chains: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_CHAINS, help="Chains of the final run.")
    ] = _DEFAULT.chains,
    draws: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_CHAINS, help="Draws of each, kept.")
    ] = _DEFAULT.draws,
    warmup: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=_CHAINS, help="Draws of each before these.")
    ] = _DEFAULT.warmup,
    threads: opt.Threads = _DEFAULT.threads,
    seed: opt.Seed = _DEFAULT.seed,
    out: opt.RunOut = None,
    force: opt.Force = False,
    as_json: opt.AsJson = False,
    *,
    gates: Annotated[GateFlags, only(*CHAINS, *VERDICT)],
) -> None:
    """Learn an independent proposal for a density, and run Metropolis-Hastings chains with it.

    Chains start far apart, at places that walks of their own found: what the proposal misses shows
    as chains that never move. file.py is run: name only code that you trust.
    """
    from bnnkit.cli.console import progress_reporter
    from bnnkit.cli.outcome import conclude
    from bnnkit.run.mh_proposal import mh_proposal as run

    config = ProposalConfig(
        family=family,
        objective=objective,
        components=components,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        minibatch=minibatch,
        spread=spread,
        walk_steps=walk_steps,
        training_chains=training_chains,
        chains=chains,
        draws=draws,
        warmup=warmup,
        threads=threads,
        seed=seed,
    )
    options = gates.options()
    report = run(
        target,
        config,
        dim=dim,
        label=label,
        reference=reference,
        out=out,
        gates=options if options.limits() else None,
        force=force,
        progress=progress_reporter(),
        argv=sys.argv,
    )
    conclude(
        report,
        options,
        as_json=as_json,
        junit=gates.junit,
        closing=f"Run directory: {report.sections['out']}",
    )
