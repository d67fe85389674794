"""`vae-refine`: the posterior of each datum refined under a pretrained autoencoder, and proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.io.data import load_data
from bnnkit.io.pictures import write_grid
from bnnkit.io.rundir import (
    RECONSTRUCTIONS_PNG,
    REPORT_HTML,
    run_directory,
    write_report,
    write_text,
)
from bnnkit.methods.vae.refine import Refined
from bnnkit.methods.vae.regret import likelihood_regret
from bnnkit.metrics.detection import auroc_interval
from bnnkit.run.gates import judge, refuse_unmeasured
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.run.setup import as_data_spec
from bnnkit.run.vae import pictures
from bnnkit.run.vae.files import write_refined
from bnnkit.run.vae.gap import split_gap, trained_bound
from bnnkit.run.vae.measure import (
    advancing,
    importance_curve,
    importance_rows,
    latent_figures,
    nats,
    sample_importance,
)
from bnnkit.run.vae.onnx import write_vae_onnx
from bnnkit.run.vae.refining import family_of, refine_posteriors
from bnnkit.run.vae.setup import VaeBench, as_vae_spec, check_range, run_stem, set_up_vae
from bnnkit.run.vae.trained import TrainedPosterior, refined_from, trained_posterior
from bnnkit.run.verify import require
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_refine import VaeRefineConfig

__all__ = ["vae_refine"]

_OWNERS = {"encoder": "encoder's", "trained": "trained posterior's"}
"""Whose the posteriors are that refinement starts from."""
_EXPORT_NOTE = (
    "The ONNX files know the encoder's Gaussian alone: no refinement in them starts from the "
    "trained posterior."
)


def vae_refine(
    model: VaeSpec | ModelSpec | str | Path,
    data: DataSpec | str,
    config: VaeRefineConfig | None = None,
    *,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Refine the posterior of each test datum, measure the gain, and write a run directory.

    Args:
        model: The checkpoint, and what its numbers mean; no weight of it is changed. Of a run of
            `vae-fit`, refinement starts from a Gaussian posterior that it trained.
        data: What it was trained on.
        config: Refinement and comparisons; the defaults are the command's.
        out: The run directory; `<model stem>-vae-refine` in the working directory if None.
        gates: Limits that the report judges itself by.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: The model or the data cannot be used, or an exported form disagrees with
            torch; then nothing is written.
    """
    config, started = config or VaeRefineConfig(), datetime.now(UTC)
    if gates is not None:
        refuse_unmeasured(gates, ("slim", "paired", *(["checks"] if config.formats else [])))
    spec = as_vae_spec(model)
    out = Path(out or f"{run_stem(spec)}-vae-refine")
    check_place(out, force=force, reads=[spec.model.file])
    device, progress = choose_device(config.device), progress or SilentProgress()
    seed = config.refine.seed
    with torch_threads(config.threads), run_directory(out, force=True) as folder:
        bench = set_up_vae(spec, as_data_spec(data), seed=seed, device=str(device))
        how = config.refine.for_latents(binary=bench.belief is not None)
        config = replace(config, refine=how)
        outside = {name: _outside(bench, as_data_spec(data), name, config) for name in config.ood}
        x = bench.test(config.limit)
        notes: list[str] = []
        trained = trained_posterior(bench, x, notes)
        begun = refined_from(bench, trained)
        refined = _refine(begun, x, config, "refining", progress)
        start = "encoder" if begun is bench else "trained"
        sections = _measure(bench, x, refined, config, start, progress)
        sections["model"]["notes"] += notes
        if trained is not None:
            _tell_trained(sections, trained, x[: config.gap], seed)
        sections["ood"] = [
            _told_apart(begun, name, refined, other, config, start, progress)
            for name, other in outside.items()
        ]
        images = pictures.reconstructions(bench, x, [refined.amortised, refined.posterior])
        write_grid(
            pictures.drawable(images), folder / RECONSTRUCTIONS_PNG, columns=pictures.COLUMNS
        )
        title = f"Data, the {_OWNERS[start]} reconstructions, the refined ones"
        sections["grids"] = [pictures.grid(title, images)]
        write_refined(folder, refined, family_of(bench, how), bench, x)
        sections |= _export(folder, bench, x, config, sections["model"]["notes"], progress)
        if start == "trained" and "onnx" in config.formats:
            sections["model"]["notes"].append(_EXPORT_NOTE)
        provenance = collect_provenance(
            argv, seed=seed, device=str(device), threads=config.threads, started=started
        )
        report = Report("vae-refine", provenance, {**sections, "out": str(out)})
        if gates is not None:
            report.gates = judge(report, gates).rows
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


def _tell_trained(
    sections: dict[str, Any], trained: TrainedPosterior, x: Tensor, seed: int
) -> None:
    """Say where refinement started, and what bound the trained posterior has on the gap's data."""
    note = f"Refinement starts from the run's own posterior, {trained.family}."
    if not trained.family.closed:
        note = (
            "Refinement starts at the encoder's Gaussian: the run's own posterior, "
            f"{trained.family}, is none. vae-eval judges it."
        )
    sections["model"]["notes"].append(note)
    if "gap" in sections:
        sections["gap"]["trained"] = trained_bound(trained.bench, x, seed)


def _outside(bench: VaeBench, data: DataSpec, name: str, config: VaeRefineConfig) -> Tensor:
    """Load data of another domain, in the shape and the units of the model's own."""
    found = load_data(
        replace(
            data, name=name, classes=None, input_shape=tuple(bench.data.input_shape),
            mean=(0.0,), std=(1.0,), augment="none", labelled=False,
        )
    )  # fmt: skip
    check_range(found)
    few = found.test.take(config.ood_limit, torch.Generator().manual_seed(config.refine.seed))
    images = torch.cat([part for part, _ in few.batches(config.refine.batch_size)])
    return bench.auto.prepare(images).to(bench.auto.device)


def _refine(
    bench: VaeBench, x: Tensor, config: VaeRefineConfig, title: str, progress: Progress
) -> Refined:
    """Refine all data, telling how far it is."""
    progress.start(title, len(x))
    source = torch.Generator().manual_seed(config.refine.seed)
    found = refine_posteriors(bench, x, config.refine, source, advancing(progress))
    progress.stop()
    return found


# --- figures --------------------------------------------------------------------------------


def _measure(
    bench: VaeBench,
    x: Tensor,
    refined: Refined,
    config: VaeRefineConfig,
    start: str,
    progress: Progress,
) -> dict[str, Any]:
    """Return the report's sections of figures."""
    seed, size = config.refine.seed, config.refine.batch_size
    estimates = {
        kind: sample_importance(bench, x, q, config.importance, seed + 1, size, progress)
        for kind, q in ((start, refined.amortised), ("refined", refined.posterior))
    }
    before, after = estimates[start], estimates["refined"]
    sections = {
        **bench.describe(),
        "method": {"name": "vae-refine", "config": asdict(config)},
        "refinement": {
            "family": family_of(bench, config.refine),
            "start": start,
            **_refinement(refined, config),
        },
        "original": {"elbo": nats(refined.elbo_before), "nll": nats(-before.log_p[-1])},
        "slim": {"elbo": nats(refined.elbo_after), "nll": nats(-after.log_p[-1])},
        "paired": {
            "elbo_gain": nats(refined.elbo_after - refined.elbo_before),
            "nll_rise": nats(before.log_p[-1] - after.log_p[-1]),
        },
        "importance": [
            row
            for kind, found in estimates.items()
            for row in importance_rows(found, kind, config.importance)
        ],
        "importance_curve": importance_curve(estimates),
        "latents": latent_figures(bench, refined.posterior, seed + 2),
    }
    if config.gap:
        progress.start("splitting the gap")
        sections["gap"] = split_gap(bench, x[: config.gap], config.gap_samples, seed + 3)
        progress.stop()
    return sections


def _refinement(refined: Refined, config: VaeRefineConfig) -> dict[str, Any]:
    """Return what the refinement did and cost."""
    gain = (refined.elbo_after - refined.elbo_before).double()
    n = len(gain)
    return {
        "optimiser": config.refine.method,
        "steps": config.refine.steps,
        "draws": config.refine.draws,
        "rate": config.refine.rate,
        "n": n,
        "improved": int(refined.improved.sum()),
        "diverged": int(refined.diverged.sum()),
        "gain_least": float(gain.min()),
        "gain_median": float(gain.median()),
        "gain_most": float(gain.max()),
        "error_of_draws": float(refined.se_gain.double().square().sum().sqrt() / n),
        "cpu_ms": 1000 * refined.cpu_seconds / n,
        "curve": [float(v) for v in refined.curve],
    }


def _told_apart(
    bench: VaeBench,
    name: str,
    inside: Refined,
    other: Tensor,
    config: VaeRefineConfig,
    start: str,
    progress: Progress,
) -> dict[str, Any]:
    """Return how well likelihood regret tells other data apart, beside the bound itself."""
    outside = _refine(bench, other, config, f"refining {name}", progress)
    word = "bound" if bench.auto.is_bound else "objective"
    scores = {
        "likelihood regret": (likelihood_regret(inside), likelihood_regret(outside)),
        f"minus the {_OWNERS[start]} {word}": (-inside.elbo_before, -outside.elbo_before),
        f"minus the refined {word}": (-inside.elbo_after, -outside.elbo_after),
    }
    rows = [
        {"score": score, "auroc": auroc_interval(a.double().cpu(), b.double().cpu())}
        for score, (a, b) in scores.items()
    ]
    return {
        "name": name,
        "n": len(other),
        "regret": nats(likelihood_regret(outside)),
        "elbo": nats(outside.elbo_before),
        "inside_regret": nats(likelihood_regret(inside)),
        "scores": rows,
    }


# --- files ----------------------------------------------------------------------------------


def _export(
    folder: Path,
    bench: VaeBench,
    x: Tensor,
    config: VaeRefineConfig,
    notes: list[str],
    progress: Progress,
) -> dict[str, Any]:
    """Write the ONNX files, and deliver nothing where one disagrees with torch."""
    if "onnx" not in config.formats:
        return {}
    progress.start("exporting")
    bench.auto.module.cpu()
    served = write_vae_onnx(folder, bench, config.refine, x.cpu(), notes)
    progress.stop()
    checks = [file.check for file in served]
    require(checks)
    return {
        "checks": [asdict(check) for check in checks],
        "files": [file.section() for file in served],
    }
