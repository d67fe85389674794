"""`vae-fit`: train a variational autoencoder, continue one, or upgrade its posterior."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bnnkit.io.rundir import REPORT_HTML, run_directory, write_report, write_text
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.run.setup import as_data_spec
from bnnkit.run.vae.fit_binary import fit_binary
from bnnkit.run.vae.fit_continuous import fit_continuous
from bnnkit.run.vae.fit_request import FitRequest
from bnnkit.run.vae.setup import as_vae_spec, run_stem
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.vae import VaeSpec
from bnnkit.spec.vae_fit import BINARY_OBJECTIVES, VaeFitConfig

__all__ = ["vae_fit"]


def vae_fit(
    model: VaeSpec | ModelSpec | str | Path,
    data: DataSpec | str,
    config: VaeFitConfig | None = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Train an autoencoder and write a run directory.

    Args:
        model: The autoencoder: an architecture for fresh weights, or a file that training
            continues, whose posterior may become richer.
        data: The images.
        config: Posterior, objective, training; the defaults are the command's.
        out: The run directory; `<model>-vae-fit` in the working directory if None.
        resume: Continue an unfinished run in `out`.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`. `bnnkit.load(out)` gives the module.

    Raises:
        BnnkitError: Model or data cannot be used, or the training diverged; then no run is
            written.
    """
    config, started = config or VaeFitConfig(), datetime.now(UTC)
    spec = as_vae_spec(model)
    out = Path(out or f"{run_stem(spec)}-vae-fit")
    check_place(out, force=force, reads=[spec.model.file])
    device = str(choose_device(config.device))
    request = FitRequest(
        spec, as_data_spec(data), config, device, out, resume, force, progress or SilentProgress()
    )
    with torch_threads(config.threads):
        binary = config.objective in BINARY_OBJECTIVES
        result = fit_binary(request) if binary else fit_continuous(request)
    provenance = collect_provenance(
        argv, seed=config.seed, device=device, threads=config.threads, started=started
    )
    report = Report("vae-fit", provenance, {"out": str(out), **result.sections})
    with run_directory(out, force=True) as folder:
        result.write(folder)
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report
