"""`vae-eval`: how good a pretrained autoencoder is, by its bound and by importance sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnnkit.bayes.posteriors import Posterior
from bnnkit.errors import UsageError
from bnnkit.io.pictures import write_grid
from bnnkit.io.rundir import (
    RECONSTRUCTIONS_PNG,
    REPORT_HTML,
    SAMPLES_PNG,
    TRAVERSALS_PNG,
    run_directory,
    write_report,
    write_text,
)
from bnnkit.methods.vae.ais import annealed_importance
from bnnkit.run.gates import judge, refuse_unmeasured
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.run.setup import as_data_spec
from bnnkit.run.vae import pictures
from bnnkit.run.vae.files import read_refined
from bnnkit.run.vae.measure import (
    advancing,
    amortised,
    bound_figures,
    gain_figures,
    importance_curve,
    importance_rows,
    latent_figures,
    measured_bound,
    nats,
    sample_importance,
)
from bnnkit.run.vae.setup import VaeBench, as_vae_spec, run_stem, set_up_vae
from bnnkit.run.vae.trained import refined_from, trained_posterior
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_eval import VaeEvalConfig

__all__ = ["vae_eval"]


def vae_eval(
    model: VaeSpec | ModelSpec | str | Path,
    data: DataSpec | str,
    config: VaeEvalConfig | None = None,
    *,
    refined: str | Path | None = None,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Measure a pretrained variational autoencoder and write a run directory.

    Args:
        model: The checkpoint, and what its numbers mean; it is not changed. Of a run of `vae-fit`
            the posterior that it trained is judged.
        data: What it was trained on.
        config: Data, samples and pictures; the defaults are the command's.
        refined: A run of `vae-refine`, whose posteriors are judged in place of the model's.
        out: The run directory; `<model stem>-vae-eval` in the working directory if None.
        gates: Limits that the report judges itself by.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: The model or the data cannot be used; then nothing is written.
    """
    config, started = config or VaeEvalConfig(), datetime.now(UTC)
    if gates is not None:
        refuse_unmeasured(gates, ("slim",))
    spec = as_vae_spec(model)
    out = Path(out or f"{run_stem(spec)}-vae-eval")
    check_place(out, force=force, reads=[spec.model.file, refined])
    device = choose_device(config.device)
    with torch_threads(config.threads):
        bench = set_up_vae(spec, as_data_spec(data), seed=config.seed, device=str(device))
        _refuse_annealing(bench, config)
        x = bench.test(config.limit)
        judged, notes = _judged(bench, x, config, refined)
        sections = _measure(bench, x, judged, config, progress or SilentProgress())
        sections["model"]["notes"] += notes
        grids = _grids(bench, x, judged.q, sections["latents"]["kl"], config)
    sections["grids"] = [pictures.grid(name, images) for name, _, images in grids]
    with run_directory(out, force=True) as folder:
        for _, name, images in grids:
            write_grid(pictures.drawable(images), folder / name, columns=pictures.COLUMNS)
        provenance = collect_provenance(
            argv, seed=config.seed, device=str(device), threads=config.threads, started=started
        )
        report = Report("vae-eval", provenance, {**sections, "out": str(out)})
        if gates is not None:
            report.gates = judge(report, gates).rows
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


@dataclass(frozen=True, eq=False)
class _Judged:
    """The posterior that is judged.

    Args:
        kind: Whose it is: `encoder`, `trained` or `refined`.
        q: Of the n data.
        encoder: What the encoder says of them.
        family: Of a trained one, as `--posterior` names it.
        run: Where a refined one was read from.
    """

    kind: str
    q: Posterior
    encoder: Posterior
    family: str | None = None
    run: str | None = None


def _judged(
    bench: VaeBench, x: Tensor, config: VaeEvalConfig, refined: str | Path | None
) -> tuple[_Judged, list[str]]:
    """Return the posterior to judge: a refined one if named, else a trained one if there is one.

    Notes come with it.
    """
    notes: list[str] = []
    size = config.batch_size
    encoder = amortised(bench, x, size)
    trained = trained_posterior(bench, x, notes)
    if refined is not None:
        begun = amortised(refined_from(bench, trained), x, size)
        q = read_refined(Path(refined), bench, x, begun)
        return _Judged("refined", q, encoder, run=str(refined)), notes
    if trained is None:
        return _Judged("encoder", encoder, encoder), notes
    q = amortised(trained.bench, x, size)
    return _Judged("trained", q, encoder, family=str(trained.family)), notes


def _measure(
    bench: VaeBench, x: Tensor, judged: _Judged, config: VaeEvalConfig, progress: Progress
) -> dict[str, Any]:
    """Return the report's sections of figures."""
    kind, q, size = judged.kind, judged.q, config.batch_size
    how = (config.elbo_samples, config.seed, size)
    parts = measured_bound(bench, x, q, *how)
    bound = bound_figures(bench, q, parts, config.elbo_samples)
    if q is not judged.encoder:
        bound |= gain_figures(parts, measured_bound(bench, x, judged.encoder, *how))
    found = sample_importance(bench, x, q, config.samples, config.seed + 1, size, progress)
    rows = importance_rows(found, kind, config.samples)
    sections = {
        **bench.describe(),
        "method": {"name": "vae-eval", "config": asdict(config)},
        "posterior": {"kind": kind, "family": judged.family, "run": judged.run},
        "bound": bound,
        "importance": rows,
        "importance_curve": importance_curve({kind: found}),
        "latents": latent_figures(bench, q, config.seed + 2),
        "slim": {"nll": rows[-1]["nll"]},
    }
    if config.ais:
        sections["ais"] = _anneal(bench, x[: config.ais], config, progress)
    return sections


def _refuse_annealing(bench: VaeBench, config: VaeEvalConfig) -> None:
    """Refuse annealed importance sampling of binary latents."""
    if config.ais and bench.belief is not None:
        raise UsageError(
            f"Running --ais {config.ais}", "binary latents",
            "its Hamiltonian steps move through continuous ones",
            "Leave it out, and compare estimates of --samples from a refined posterior: "
            "vae-refine, then --refined RUN.",
        )  # fmt: skip


def _anneal(
    bench: VaeBench, x: Tensor, config: VaeEvalConfig, progress: Progress
) -> dict[str, Any]:
    """Return log p(x) by annealed importance sampling from the prior."""
    transitions = 2 * config.ais_temperatures  # those of the pilot run as well
    progress.start("annealed importance sampling", transitions)
    found = annealed_importance(
        bench.model, x, generator=torch.Generator().manual_seed(config.seed + 3),
        chains=config.ais_chains, temperatures=config.ais_temperatures,
        progress=advancing(progress),
    )  # fmt: skip
    progress.stop()
    return {
        "nll": nats(-found.log_p),
        "chains": config.ais_chains,
        "temperatures": config.ais_temperatures,
        "error_of_chains": float(found.se.square().sum().sqrt() / len(x)),
        "ess_median": float(found.ess.median()),
        "acceptance": float(found.acceptance.mean()),
    }


def _grids(
    bench: VaeBench, x: Tensor, q: Posterior, kl: list[float], config: VaeEvalConfig
) -> list[tuple[str, str, Tensor]]:
    """Return title, file and images of each grid."""
    source = torch.Generator().manual_seed(config.seed + 4)
    found = [("Data, and under them their reconstructions", RECONSTRUCTIONS_PNG,
              pictures.reconstructions(bench, x, [q]))]  # fmt: skip
    if bench.model.standard_prior or bench.belief is not None:
        found.insert(0, ("Samples", SAMPLES_PNG, pictures.samples(bench, source)))
    order = sorted(range(len(kl)), key=lambda i: -kl[i])[: config.latents_shown]
    if order:
        centre = q.rows(slice(0, 1)).centre()[0]
        title = "Traversals: a row for each latent, that of the largest KL first"
        found.append((title, TRAVERSALS_PNG, pictures.traversals(bench, centre, order)))
    return found
