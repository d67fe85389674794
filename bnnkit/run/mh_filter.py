"""`mh-filter`: a generator corrected by implicit Metropolis-Hastings, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bnnkit.io.pictures import grid_png
from bnnkit.io.rundir import REPORT_HTML, run_directory, write_report, write_text
from bnnkit.run.filtering.choose import choose
from bnnkit.run.filtering.cost import Stopwatch
from bnnkit.run.filtering.discriminate import discriminators
from bnnkit.run.filtering.files import write_filtered
from bnnkit.run.filtering.filtered import run_filter
from bnnkit.run.filtering.job import Job, check_range, prepare
from bnnkit.run.filtering.judgement import bound_section, held_out, verdict
from bnnkit.run.filtering.judges import FeatureSource
from bnnkit.run.filtering.measure import look, see_reference
from bnnkit.run.filtering.rivals import sampler_rows
from bnnkit.run.filtering.sections import (
    bank_section,
    class_names,
    described,
    discriminator_section,
    gated_section,
)
from bnnkit.run.filtering.trace import Trace
from bnnkit.run.gates import judge as judge_gates
from bnnkit.run.gates import refuse_unmeasured
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import full_precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.run.setup import as_data_spec
from bnnkit.spec import DataSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.generator import GeneratorSpec
from bnnkit.spec.mh import MhConfig

__all__ = ["mh_filter"]

_SHOWN = 64


def mh_filter(
    generator: GeneratorSpec,
    data: DataSpec | str,
    config: MhConfig | None = None,
    *,
    features: FeatureSource | None = None,
    owner: FeatureSource | None = None,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    clock: Stopwatch | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Filter a pretrained generator by the implicit Metropolis-Hastings algorithm.

    Args:
        generator: The generator; its weights are not changed.
        data: Real images of what it should make.
        config: Discriminator, chains and metrics; the defaults are the command's.
        features: A model whose features distances are taken in, and regressions fitted on.
        owner: The discriminator that the generator was trained against, for
            `discriminator="owner"`.
        out: The run directory; `<generator stem>-mh-filter` in the working directory if None.
        gates: Limits that the report judges itself by.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        clock: What runs since the command was called; the report's `cost` is read off it.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: Something cannot be opened, the two sides do not go together, chains cannot
            move, or a written form disagrees; then nothing is written.

    References:
        K. Neklyudov, E. Egorov, D. Vetrov, The implicit Metropolis-Hastings algorithm (2019).
    """
    config, started = config or MhConfig(), datetime.now(UTC)
    if gates is not None:
        refuse_unmeasured(gates, ("filtered",))
    model = generator.model
    out = Path(out or f"{Path(model.file or (model.arch or 'generator')).stem}-mh-filter")
    check_place(out, force=force, reads=[model.file])
    clock = clock or Stopwatch()
    with torch_threads(config.threads), full_precision():
        with clock.phase("open"):
            job = prepare(
                generator, as_data_spec(data), config, features, owner,
                progress or SilentProgress(), clock,
            )  # fmt: skip
        with run_directory(out, force=force) as folder:
            sections = _run(job, generator, features, owner, folder)
            provenance = collect_provenance(
                argv, seed=config.seed, device=str(job.device), threads=config.threads,
                started=started,
            )  # fmt: skip
            report = Report("mh-filter", provenance, {**sections, "out": str(out)})
            if gates is not None:
                report.gates = judge_gates(report, gates).rows
            with clock.phase("page"):
                write_text(folder / REPORT_HTML, render_html(report))
            report.sections["cost"] = clock.section()
            write_report(folder, report)
    return report


def _run(
    job: Job,
    spec: GeneratorSpec,
    features: FeatureSource | None,
    owner: FeatureSource | None,
    folder: Path,
) -> dict[str, Any]:
    """Do the work, and return what the report says."""
    clock = job.clock
    bank = job.make(job.config.made, 1)
    bank_seconds = clock.cpu("generate")
    check_range(job, bank)
    with clock.phase("metrics"):
        job.progress.start("looking at the proposals")
        seen = look(job.judges, bank.images)
        job.progress.stop()
        watch = Trace(job, bank, seen) if job.config.trace else None
    found = discriminators(job, bank, watch)
    with clock.phase("choose"):
        chosen = choose(job, found.ways, bank, seen)
    with clock.phase("metrics"):
        reference = see_reference(job.judges, job.test.images)
        filtered = run_filter(job, bank, seen, chosen, reference)
        rows = sampler_rows(job, bank, seen, chosen, filtered, reference)
        quality = held_out(chosen)
    raw = bank.images[:_SHOWN]
    with clock.phase("files"):
        served = write_filtered(
            folder, job, spec, chosen, filtered, raw, features=features, owner=owner
        )
    return {
        **described(job, spec),
        "method": {"name": "mh-filter", "config": asdict(job.config)},
        "discriminator": discriminator_section(job, found, chosen, quality),
        "reliability": quality["reliability"],
        "bank": bank_section(bank, chosen, bank_seconds),
        "chain": filtered.chain,
        "filtered": gated_section(job, rows),
        "bound": bound_section(job, chosen),
        "extractors": [{"name": j.name, "own": j.own} for j in job.judges],
        "samplers": rows,
        "length_curve": filtered.curve,
        "trace": watch.rows if watch is not None else [],
        "class_names": class_names(job, rows),
        "grids": [
            {"name": name, "png": grid_png(images)}
            for name, images in (("raw", raw), ("filtered", filtered.images[:_SHOWN]))
        ],
        "verdict": verdict(job, rows, filtered.chain),
        "files": [file.section() for file in served],
        "checks": [asdict(file.check) for file in served],
    }
