"""`avo-toy`: chains and flows on an energy in the plane, by several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.io.rundir import (
    DENSITIES_PNG,
    REPORT_HTML,
    run_directory,
    write_report,
    write_text,
)
from bnnkit.methods.annealed import (
    Assessment,
    Energy,
    Landscape,
    Trained,
    assess,
    fit,
    make_energy,
    survey,
)
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.avo_plots import as_text, coarser, densities_png
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.spec import Quantity, Report
from bnnkit.spec.avo import AvoToyConfig

__all__ = ["avo_toy"]

_NOISY = ("elbo", "avo")
_COARSER = 3


def avo_toy(
    energy: str,
    config: AvoToyConfig | None = None,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Train several approximations of an energy, judge them, and write a run directory.

    Args:
        energy: `a` to `f`; `d` has four modes of different weight.
        config: Methods, sizes and training; the defaults are the command's.
        out: The run directory; `avo-toy-<energy>` in the working directory if None.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: There is no such energy, or a training cannot go on; then nothing is written.
    """
    config, started = config or AvoToyConfig(), datetime.now(UTC)
    target = make_energy(energy, config.spacing)
    out = Path(out or f"avo-toy-{target.name}")
    check_place(out, force=force)
    with torch_threads(config.threads):
        sections, png = _run(target, config, progress or SilentProgress())
    with run_directory(out, force=True) as folder:
        provenance = collect_provenance(
            argv, seed=config.seed, threads=config.threads, started=started
        )
        report = Report("avo-toy", provenance, {**sections, "out": str(out)})
        (folder / DENSITIES_PNG).write_bytes(png)
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


def _run(energy: Energy, config: AvoToyConfig, progress: Progress) -> tuple[dict[str, Any], bytes]:
    """Train and judge every method; return the report's sections and the picture."""
    progress.start("integrating the density")
    truth = survey(energy)
    progress.stop()
    panels: list[tuple[str, Tensor]] = [("true density", coarser(truth.density, _COARSER))]
    rows, noisy = [], []
    for method in config.methods:
        trained, found = _train(energy, method, config, truth, 0.0, progress)
        rows.append(_row(method, trained, found, truth))
        panels.append((method, coarser(truth.histogram(found.z), _COARSER)))
    for method in _NOISY if config.bias else ():
        if method in config.methods:
            trained, found = _train(energy, method, config, truth, config.bias, progress)
            noisy.append(_row(method, trained, found, truth))
            title = f"{method}, biased noise"
            panels.append((title, coarser(truth.histogram(found.z), _COARSER)))
    png = densities_png(panels, truth.edge)
    sections = {
        "model": {"arch": f"energy {energy.name}", "notes": []},
        "method": {"name": "avo-toy", "config": asdict(config)},
        "truth": {
            "log_z": truth.log_z,
            "modes": len(truth.weights),
            "weights": truth.weights.tolist(),
        },
        "approximations": rows,
        "robustness": noisy,
        "grids": [{"name": "densities", "png": as_text(png)}],
        "verdict": _verdict(rows, noisy),
    }
    return sections, png


def _train(
    energy: Energy,
    method: str,
    config: AvoToyConfig,
    truth: Landscape,
    bias: float,
    progress: Progress,
) -> tuple[Trained, Assessment]:
    """Train one method and judge it, with draws that all methods share the seed of."""
    words = f"training {method}" + (" with biased noise" if bias else "")
    progress.start(words, config.steps)
    trained = fit(
        energy, method, config, bias=bias, told=lambda figures: progress.advance(1, **figures)
    )
    progress.stop()
    generator = torch.Generator().manual_seed(config.seed + 1)
    return trained, assess(trained.sampler, energy, truth, config.samples, generator)


def _row(method: str, trained: Trained, found: Assessment, truth: Landscape) -> dict[str, Any]:
    """Return what the report says of one method."""
    low, high = found.bound - found.error, found.bound + found.error
    return {
        "method": method,
        "visited": found.visited,
        "known": len(truth.weights),
        "tv": found.tv,
        "shares": found.shares,
        "bound": Quantity(found.bound, "nats", len(found.z), low, high),
        "gap": found.gap,
        "log_z": found.log_z,
        "ess_share": found.ess_share,
        "seconds": trained.seconds,
        "curve": trained.curve,
    }


def _verdict(rows: list[dict[str, Any]], noisy: list[dict[str, Any]]) -> list[str]:
    """Return what annealing brought, in sentences; none where it is not compared."""
    sentences = []
    for where, found in (("", rows), ("With biased noise: ", noisy)):
        named = {row["method"]: row for row in found}
        if "elbo" in named and "avo" in named:
            sentences.append(where + _compared(named["elbo"], named["avo"]))
    return sentences


def _compared(elbo: dict[str, Any], avo: dict[str, Any]) -> str:
    """Return one sentence about the bound and the annealed objectives."""
    known = elbo["known"]
    told = [
        f"{words} {row['visited']} of {known} modes (TV of weights {row['tv']:.3f}, "
        f"gap {row['gap']:.3f} nats)"
        for words, row in (("ELBO covers", elbo), ("AVO", avo))
    ]
    return f"{told[0]}, {told[1]}."
