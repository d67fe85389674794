"""`mh-filter`: a generator corrected by implicit Metropolis-Hastings, and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.bayes.accept.independent import acceptance_rate, weight_ess
from bnnkit.io.rundir import REPORT_HTML, run_directory, write_report, write_text
from bnnkit.metrics.generative import inception_score
from bnnkit.run.gates import judge as judge_gates
from bnnkit.run.html import render_html
from bnnkit.run.latency import torch_threads
from bnnkit.run.mh_choose import Chosen, choose, run_chains
from bnnkit.run.mh_discriminate import Candidates, discriminators
from bnnkit.run.mh_files import grid_png, write_filtered
from bnnkit.run.mh_job import Bank, FeatureSource, Job, check_range, prepare
from bnnkit.run.mh_judgement import bound_section, held_out, verdict
from bnnkit.run.mh_markov import step_by_step
from bnnkit.run.mh_measure import (
    Reference,
    Seen,
    distances,
    look,
    measure,
    see_reference,
    select,
    unique_share,
)
from bnnkit.run.mh_rivals import rivals
from bnnkit.run.mh_trace import Trace
from bnnkit.run.precision import full_precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.request import check_place
from bnnkit.run.setup import as_data_spec
from bnnkit.spec import DataSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.generator import GeneratorSpec
from bnnkit.spec.mh import MhConfig

__all__ = ["mh_filter"]

_LENGTHS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)
_SHOWN = 64


@dataclass
class _Filtered:
    """What came out of the chains.

    Args:
        images: uint8 `[n, c, h, w]`.
        latents: `[n, ...]`.
        labels: int64 `[n]`, or None.
        rows: Bank rows `[n]`; -1 where proposals were made for each step.
        seen: The images as the judges see them.
        chain: The report's section.
        curve: The report's figures by chain length.
        controls: Rows for the table of samplers.
        pairs: The discriminator of pairs, where proposals went through an encoder.
    """

    images: Tensor
    latents: Tensor
    labels: Tensor | None
    rows: Tensor
    seen: Seen
    chain: dict[str, Any]
    curve: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    pairs: nn.Module | None = None


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
    model = generator.model
    out = Path(out or f"{Path(model.file or (model.arch or 'generator')).stem}-mh-filter")
    check_place(out, force=force)
    with torch_threads(config.threads), full_precision():
        job = prepare(
            generator, as_data_spec(data), config, features, progress or SilentProgress()
        )
        with run_directory(out, force=force) as folder:
            sections = _run(job, generator, features, owner, folder)
            provenance = collect_provenance(
                argv, seed=config.seed, device=str(job.device), threads=config.threads,
                started=started,
            )  # fmt: skip
            report = Report("mh-filter", provenance, {**sections, "out": str(out)})
            if gates is not None:
                report.gates = judge_gates(report, gates).rows
            write_report(folder, report)
            write_text(folder / REPORT_HTML, render_html(report))
    return report


def _run(
    job: Job,
    spec: GeneratorSpec,
    features: FeatureSource | None,
    owner: FeatureSource | None,
    folder: Path,
) -> dict[str, Any]:
    """Do the work, and return what the report says."""
    begun = time.process_time()
    bank = job.make(job.config.made, 1)
    bank_seconds = time.process_time() - begun
    check_range(job, bank)
    job.progress.start("looking at the proposals")
    seen = look(job.judges, bank.images)
    job.progress.stop()
    watch = Trace(job, bank, seen) if job.config.trace else None
    found = discriminators(
        job, bank, None if owner is None else owner.open(job.generator, job.device), watch
    )
    chosen = choose(job, found.ways, bank, seen)
    reference = see_reference(job.judges, job.test.images)
    if job.config.over_bank:
        filtered = _filter(job, bank, seen, chosen, reference)
    else:
        filtered = _walk(job, bank, chosen, reference)
    rows = _samplers(job, bank, seen, chosen, filtered, reference)
    checks = write_filtered(
        folder, job, spec, chosen,
        images=filtered.images, latents=filtered.latents, labels=filtered.labels,
        rows=filtered.rows, raw=bank.images[:_SHOWN],
        features=features, owner=owner, pairs=filtered.pairs,
    )  # fmt: skip
    job.progress.stop()
    return {
        **_described(job, spec),
        "method": {"name": "mh-filter", "config": asdict(job.config)},
        "discriminator": _discriminator(job, found, chosen),
        "reliability": held_out(chosen)["reliability"],
        "bank": {
            "size": len(bank),
            "seconds": bank_seconds,
            "per_second": len(bank) / max(bank_seconds, 1e-9),
            "weight_ess": weight_ess(chosen.bank),
            "weight_ess_share": weight_ess(chosen.bank) / len(bank),
        },
        "chain": filtered.chain,
        "filtered": _gated(job, rows),
        "bound": bound_section(job, chosen),
        "extractors": [{"name": j.name, "own": j.own} for j in job.judges],
        "samplers": rows,
        "length_curve": filtered.curve,
        "trace": watch.rows if watch is not None else [],
        "class_names": list(job.data.classes) if _has_classes(job) else [],
        "grids": [
            {"name": "raw", "png": grid_png(bank.images[:_SHOWN])},
            {"name": "filtered", "png": grid_png(filtered.images[:_SHOWN])},
        ],
        "verdict": verdict(job, rows, filtered.chain),
        "checks": [asdict(check) for check in checks],
    }


def _filter(job: Job, bank: Bank, seen: Seen, chosen: Chosen, reference: Reference) -> _Filtered:
    """Run the chains and look at them at several lengths."""
    config = job.config
    lengths = (*(n for n in _LENGTHS if n < config.length), config.length)
    job.progress.start("running the chains")
    begun = time.process_time()
    rows, walks = run_chains(
        job, bank, chosen.bank, chosen.held, config.samples, 6, snapshots=lengths
    )
    seconds = time.process_time() - begun
    job.progress.stop()
    assert bool((rows >= 0).all())  # every image is a proposal, none is real
    total = sum(len(walk.rows) for walk in walks)
    weights = [len(walk.rows) / total for walk in walks]
    chain = {
        "proposal": "independent",
        "length": config.length,
        "chains": total,
        "acceptance": sum(w * walk.acceptance for w, walk in zip(weights, walks, strict=True)),
        "acceptance_from_real": acceptance_rate(chosen.held, chosen.fresh),
        "unmoved_share": sum(w * k.unmoved_share for w, k in zip(weights, walks, strict=True)),
        "restarts": sum(walk.restarts for walk in walks),
        "unique_share": unique_share(rows),
        "per_second": len(rows) / max(seconds, 1e-9),
        "seconds": seconds,
    }
    chain["tv_estimate"] = 1 - float(chain["acceptance_from_real"])
    curve = _curve(job, walks, seen, reference) if len(walks) == 1 else []
    labels = None if bank.labels is None else bank.labels[rows]
    found = select(seen, rows)
    return _Filtered(bank.images[rows], bank.latents[rows], labels, rows, found, chain, curve)


def _walk(job: Job, bank: Bank, chosen: Chosen, reference: Reference) -> _Filtered:
    """Run chains whose proposals are made for each step."""
    found = step_by_step(job, bank, chosen, reference)
    rows = torch.full((len(found.images),), -1)
    seen = look(job.judges, found.images)
    chain = {**found.chain}
    if job.config.proposal != "encoder":
        chain["acceptance_from_real"] = acceptance_rate(chosen.held, chosen.fresh)
        chain["tv_estimate"] = 1 - chain["acceptance_from_real"]
    return _Filtered(
        found.images,
        found.latents,
        found.labels,
        rows,
        seen,
        chain,
        controls=found.rows,
        pairs=found.pairs,
    )


def _curve(
    job: Job, walks: Sequence[Any], seen: Seen, reference: Reference
) -> list[dict[str, Any]]:
    """Measure the chains at several lengths; one that has not moved has nothing to show yet."""
    out = []
    for length, (rows, acceptance) in walks[0].by_length.items():
        moved = rows[rows >= 0]
        if len(moved) < 2:
            continue
        there = select(seen, moved)
        metrics = {name: {"fid": value} for name, value in distances(there, reference).items()}
        judge = next((j for j in job.judges if j.classes), None)
        if judge is not None and there.probabilities is not None:
            metrics[judge.name]["is"] = inception_score(there.probabilities)[0]
        out.append(
            {
                "length": length,
                "acceptance": acceptance,
                "unmoved_share": 1 - len(moved) / len(rows),
                "metrics": metrics,
            }
        )
    return out


def _samplers(
    job: Job, bank: Bank, seen: Seen, chosen: Chosen, filtered: _Filtered, reference: Reference
) -> list[dict[str, Any]]:
    """Measure raw, filtered and rival samples, and real ones as the floor."""
    count = min(job.config.metric_samples, job.config.samples)
    job.progress.start("measuring")
    first = torch.arange(min(count, len(bank)))
    rows = [
        {"name": "raw", "label": "as the generator makes them", "delivered": False}
        | measure(job, select(seen, first), reference, full=True),
        {"name": f"{filtered.chain['proposal']} MH", "label": "filtered", "delivered": True}
        | measure(job, select(filtered.seen, torch.arange(count)), reference, full=True)
        | {
            "acceptance": filtered.chain["acceptance"],
            "unique_share": filtered.chain["unique_share"],
            "seconds": filtered.chain["seconds"],
        },
    ]
    job.progress.stop()
    rows += filtered.controls
    rows += rivals(job, bank, seen, chosen, reference, count)
    job.progress.start("measuring real images against real ones")
    floor = look(job.judges, job.fit.images[: len(job.test)])
    rows.append(
        {"name": "floor", "label": "real training images", "delivered": False}
        | measure(job, floor, reference, full=True)
    )
    job.progress.stop()
    return rows


def _discriminator(job: Job, found: Candidates, chosen: Chosen) -> dict[str, Any]:
    """Return the report's section of the discriminator."""
    config = job.config
    trained = config.discriminator in ("conv", "combined")
    quality = held_out(chosen)
    return {
        "kind": config.discriminator,
        "name": chosen.name,
        "loss": config.loss if trained else None,
        "steps": found.steps or None,
        "seconds": found.seconds,
        "auc": quality["auc"],
        "nll": quality["nll"],
        "ece": quality["ece"],
        "temperature": chosen.temperature,
        "calibration": "none" if config.temperature else config.calibrate,
        "extractor": found.extractor,
        "candidates": chosen.rows,
    }


def _described(job: Job, spec: GeneratorSpec) -> dict[str, Any]:
    """Return the sections on the generator and the data."""
    made = job.generator
    return {
        "model": {
            "file": spec.model.file,
            "arch": spec.model.arch,
            "arch_args": dict(spec.model.arch_args),
            "notes": job.notes,
        },
        "generator": {
            "name": made.name,
            "form": made.form.form,
            "latent": str(made.latent),
            "out_range": made.out_range,
            "shape": list(made.shape),
            "classes": made.classes,
            "pixels": made.pixels,
        },
        "data": {
            "name": job.data.name,
            "fingerprint": job.data.fingerprint,
            "n_train": len(job.data.train),
            "n_test": len(job.data.test),
            "input_shape": list(job.data.input_shape),
            "notes": list(job.data.notes),
        },
        "splits": {
            "fit": len(job.fit),
            "held": len(job.held),
            "test": len(job.test),
            "seed": job.config.seed,
        },
    }


def _gated(job: Job, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures that gates judge: those of the first extractor."""
    row = next(row for row in rows if row["delivered"])
    name = job.judges[0].name
    # of these very samples: a plain number, which a gate passes or fails
    return {"extractor": name, "n": row["n"], "fid": row["metrics"][name]["fid"]}


def _has_classes(job: Job) -> bool:
    """Tell whether a judge counts classes, and the data name them."""
    return any(j.classes for j in job.judges) and len(job.data.classes) > 1
