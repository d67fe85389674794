"""`mh-proposal`: learn an independent proposal for a density, run long chains, and judge them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bnnkit.errors import UsageError
from bnnkit.io.export import write_safetensors
from bnnkit.io.rundir import (
    PROPOSAL,
    REPORT_HTML,
    SAMPLES_NPZ,
    run_directory,
    write_report,
    write_text,
)
from bnnkit.methods.proposals import (
    Assessment,
    Chains,
    Density,
    Proposal,
    Target,
    Trained,
    Walks,
    assess,
    build_proposal,
    run_chains,
    train,
    walk,
)
from bnnkit.run.gates import judge, refuse_unmeasured
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.proposing.target import make_target
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.spec import Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.proposal import ProposalConfig

__all__ = ["mh_proposal"]


def mh_proposal(
    target: Target | str,
    config: ProposalConfig | None = None,
    *,
    dim: int | None = None,
    label: str | None = None,
    reference: str | Path | None = None,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Learn a proposal for a target, sample with it frozen, and write a run directory.

    Args:
        target: A density; or its name: `mixture6`, `logreg:breast-cancer`, `logreg:FILE.csv`,
            `path/to/file.py:log_prob`.
        config: Family, objective, training and chains; the defaults are the command's.
        dim: Coordinates of a target in the user's own code.
        label: Column or array that holds the label of a table.
        reference: JSON with `mean` and `sd` that the samples are held against.
        out: The run directory; `<target>-mh-proposal` in the working directory if None.
        gates: Limits that the report judges itself by.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: The target cannot be used, or the training cannot go on; then nothing is
            written.
    """
    config, started = config or ProposalConfig(), datetime.now(UTC)
    if gates is not None:
        refuse_unmeasured(gates, ("sampling",))
    if isinstance(target, str):
        target = make_target(target, dim, label=label, reference=reference)
    elif dim is not None or label is not None or reference is not None:
        raise UsageError(
            "Sampling a target that is an object",
            "dim, label or reference beside it",
            "they are read with the name of a target",
            "Leave them out, or set them in the object.",
        )
    out = Path(out or f"{_stem(target.name)}-mh-proposal")
    check_place(out, force=force)
    with torch_threads(config.threads):
        sections, proposal, chains = _run(target, config, progress or SilentProgress())
    with run_directory(out, force=True) as folder:
        write_safetensors(proposal, folder / PROPOSAL)
        np.savez(
            folder / SAMPLES_NPZ, samples=chains.samples.numpy(), log_prob=chains.log_prob.numpy()
        )
        provenance = collect_provenance(
            argv, seed=config.seed, threads=config.threads, started=started
        )
        report = Report("mh-proposal", provenance, {**sections, "out": str(out)})
        if gates is not None:
            report.gates = judge(report, gates).rows
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


def _stem(name: str) -> str:
    """Return a target's name for a folder.

    >>> _stem("code/target.py:log_prob"), _stem("logreg:heart.csv"), _stem("mixture6")
    ('target', 'logreg-heart', 'mixture6')
    """
    place, _, item = name.rpartition(":")
    if place == "logreg":
        return f"logreg-{Path(item).stem}"
    return Path(place).stem if place else name


def _run(
    target: Target, config: ProposalConfig, progress: Progress
) -> tuple[dict[str, Any], nn.Module, Chains]:
    """Train and sample; return the report's sections, the proposal and the chains."""
    density = Density(target, config.minibatch)
    fit, final = _generators(config.seed)
    begun = time.perf_counter()
    pilot = _walk(density, config.training_chains, config, fit, "walking to the training's starts",
                  progress)  # fmt: skip
    proposal = build_proposal(config.family, pilot.path, config.components, fit)
    trained = _train(proposal, density, pilot, config, fit, progress)
    fitted = time.perf_counter()
    # walks of their own: those of the training are what the proposal was fitted to
    starts = _walk(
        density, config.chains, config, final, "walking to the chains' starts", progress
    )
    walked = time.perf_counter()
    chains = _sample(proposal, density, starts, config, final, progress)
    seconds = time.perf_counter() - walked
    found = assess(
        chains,
        seconds=seconds,
        modes=target.modes,
        reference=target.reference,
        checked=f"N(0, {config.spread:g}²) starts in each coordinate and {config.walk_steps} "
        "Langevin steps of their own",
    )
    sections = _sections(target, config, density, trained, found)
    sections["training"]["seconds"] = fitted - begun
    return sections, proposal, chains


def _generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Return the random source of the training and the one of the final run."""
    root = torch.Generator().manual_seed(seed)
    seeds = torch.randint(1 << 62, (2,), generator=root).tolist()
    first, second = (torch.Generator().manual_seed(s) for s in seeds)
    return first, second


def _walk(
    density: Density,
    count: int,
    config: ProposalConfig,
    generator: torch.Generator,
    words: str,
    progress: Progress,
) -> Walks:
    """Walk to starts, and tell how far it is."""
    progress.start(words, config.walk_steps)
    walks = walk(
        density, count, config.walk_steps, config.spread, generator, lambda: progress.advance()
    )
    progress.stop()
    return walks


def _train(
    proposal: nn.Module,
    density: Density,
    starts: Walks,
    config: ProposalConfig,
    generator: torch.Generator,
    progress: Progress,
) -> Trained:
    """Train the proposal, and tell how far it is."""
    progress.start("training the proposal", config.steps)
    trained = train(
        _as_proposal(proposal),
        density,
        config.objective,
        starts,
        steps=config.steps,
        batch_size=config.batch_size,
        lr=config.lr,
        generator=generator,
        told=lambda figures: progress.advance(1, **figures),
    )
    progress.stop()
    return trained


def _sample(
    proposal: nn.Module,
    density: Density,
    starts: Walks,
    config: ProposalConfig,
    generator: torch.Generator,
    progress: Progress,
) -> Chains:
    """Run the final chains, and tell how far they are."""
    progress.start("sampling", config.warmup + config.draws)
    chains = run_chains(
        _as_proposal(proposal),
        density,
        starts,
        draws=config.draws,
        warmup=config.warmup,
        generator=generator,
        told=lambda n: progress.advance(n),
    )
    progress.stop()
    return chains


def _as_proposal(module: nn.Module) -> Proposal:
    """Say to the type checker that every family is a proposal."""
    return module  # type: ignore[return-value]


def _sections(
    target: Target,
    config: ProposalConfig,
    density: Density,
    trained: Trained,
    found: Assessment,
) -> dict[str, Any]:
    """Return what the report says."""
    notes = list(target.notes)
    if density.undefined:
        notes.append(
            f"{density.undefined:,} of {density.asked:,} log densities were NaN; "
            "chains rejected them"
        )
    sections: dict[str, Any] = {
        "model": {"arch": target.name, "notes": notes},
        "method": {"name": "mh-proposal", "config": asdict(config)},
        "training": {
            "family": config.family,
            "objective": config.objective,
            "steps": trained.steps,
            "curve": trained.curve,
        },
        "sampling": {"dim": target.dim, **found.sampling},
        "good": found.good,
        "verdict": found.sentences,
    }
    return sections | {k: v for k, v in (("modes", found.modes), ("bias", found.bias)) if v}
