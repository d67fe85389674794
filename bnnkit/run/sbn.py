"""`sbn-fit`: stochastic batch norm for a pretrained net, measured beside what else there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bnnkit.graph.count import count_parameters
from bnnkit.io.data import Split, load_data, other_classes
from bnnkit.io.rundir import (
    MODEL_ONNX,
    REPORT_HTML,
    run_directory,
    write_plan,
    write_report,
    write_text,
)
from bnnkit.methods.sbn import StochasticNet, with_carriers
from bnnkit.run.evaluate import check_outputs, classes_of
from bnnkit.run.gates import judge
from bnnkit.run.latency.original import time_against_original
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device, full_precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place, check_rebuildable, copied
from bnnkit.run.setup import Bench, as_data_spec, as_model_spec, plan_of, set_up
from bnnkit.run.uncertainty.calibration import Calibration, plan_calibration
from bnnkit.run.uncertainty.fit_report import fit_section
from bnnkit.run.uncertainty.fitting import Job, Member, fit_all, load_members
from bnnkit.run.uncertainty.guards import advice, reads_batches, trained_batch_size
from bnnkit.run.uncertainty.side_by_side import Way, curves, method_rows, verdict
from bnnkit.run.uncertainty.stochastic import (
    noise_plan,
    sampled,
    sampled_name,
    write_stochastic,
)
from bnnkit.run.uncertainty.ways import measure_ways
from bnnkit.run.verify import proof_size
from bnnkit.spec import DataSpec, ModelSpec, Plan, Report
from bnnkit.spec.config import SbnConfig
from bnnkit.spec.gates import GateOptions

__all__ = ["OTHER_CLASSES", "sbn_fit"]

OTHER_CLASSES = "other-classes"
"""As `--ood`: the classes that `--classes` leaves out."""


def sbn_fit(
    model: ModelSpec | str | Path,
    data: DataSpec | str,
    config: SbnConfig | None = None,
    *,
    members: Sequence[ModelSpec | str | Path] = (),
    arch: str | None = None,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Fit stochastic batch norm to a pretrained model, measure it, and write a run directory.

    Args:
        model: The checkpoint; its weights are not changed.
        data: What it was trained on.
        config: Sampler, batches, calibration and forms; the defaults are the command's.
        members: Further checkpoints of the same architecture, for the rows of ensembles.
        arch: The architecture, where `model` is only a file.
        out: The run directory; `<model stem>-sbn-fit` in the working directory if None.
        gates: Limits that the report judges itself by.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: The model or the data cannot be used, the net has no batch norm, or a written
            form disagrees with the net; then nothing is written.
    """
    config, started = config or SbnConfig(), datetime.now(UTC)
    spec = as_model_spec(model, arch)
    out = Path(out or f"{Path(spec.file or spec.arch or 'model').stem}-sbn-fit")
    check_place(out, force=force, reads=[spec.file])
    job = _prepare(spec, as_data_spec(data), config, progress or SilentProgress())
    others = load_members(job.bench, [as_model_spec(m, spec.arch) for m in members])
    with torch_threads(config.threads), full_precision():
        first, rest = fit_all(job, others)
        ways = measure_ways(job, first, rest)
    network = first.network
    delivered = next(way for way in ways if way.delivered)
    network.temperature = delivered.temperature or 1.0
    with run_directory(out, force=True) as folder:
        sections = _deliver(job, first, ways, folder)
        provenance = collect_provenance(
            argv, seed=config.seed, device=str(job.device), threads=config.threads, started=started
        )
        report = Report("sbn-fit", provenance, {**sections, "out": str(out)})
        if gates is not None:
            report.gates = judge(report, gates).rows
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


# --- prepare --------------------------------------------------------------------------------


def _prepare(spec: ModelSpec, data: DataSpec, config: SbnConfig, progress: Progress) -> Job:
    """Load what is needed, and refuse now what would be refused later."""
    device = choose_device(config.device)
    bench = set_up(spec, data, seed=config.seed)
    check_rebuildable(bench.spec, bench.module)
    with_carriers(bench.module)  # refuses a net without batch norm
    check_outputs(classes_of(bench.module, bench.inputs(2)), bench.data.test)
    outside = {name: _outside(name, data, bench, config) for name in config.ood}
    calibration = plan_calibration(
        config.calibration_split, bench.data.train, bench.data.test, config.seed
    )
    if config.calibrate == "none":
        calibration = Calibration("none", 0.0, bench.data.test, bench.data.train)
    job = Job(bench, config, device, progress, calibration, outside)
    trained = config.trained_batch_size or trained_batch_size(bench.spec.file)
    if trained is not None and trained != config.batch_size:
        job.notes.append(
            f"The statistics belong to batches of {config.batch_size}, and the net was trained "
            f"on batches of {trained}: --batch-size {trained} gives the noise of its training, "
            "smaller batches give more."
        )
    return job


def _outside(name: str, data: DataSpec, bench: Bench, config: SbnConfig) -> Split:
    """Load inputs of another domain as the model reads those of its own."""
    spec = other_classes(data) if name == OTHER_CLASSES else replace(data, name=name, classes=None)
    found = load_data(
        replace(
            spec,
            mean=bench.data.mean,
            std=bench.data.std,
            input_shape=tuple(bench.data.input_shape),
        )
    ).test
    return found.take(config.ood_limit, torch.Generator().manual_seed(config.seed))


# --- deliver --------------------------------------------------------------------------------


def _deliver(job: Job, member: Member, ways: list[Way], folder: Path) -> dict[str, Any]:
    """Write, prove and time the stochastic net, and return what the report says."""
    config, bench, shape = job.config, job.bench, tuple(job.bench.data.input_shape)
    network = member.network.cpu()
    original = copied(member.net).cpu().eval()
    inputs = bench.inputs(proof_size(shape), config.seed)
    if job.device.type != "cpu":
        network.choose(inputs)  # what was the faster way there need not be it here
    batches = [n for n in config.batches_timed if n > 1 or not reads_batches(original)]
    if reads_batches(original):
        job.notes.append(
            "The net's batch norm keeps no running statistics: by itself it answers an input by "
            "the batch that it comes in, so plain batch norm was measured on the test inputs in "
            "batches, and not timed on one."
        )
    plan = _plan(job, network)
    checks, written = write_stochastic(
        folder, network, plan, inputs, config.formats, config.onnx_noise, job.progress
    )
    write_plan(folder, plan)
    rows = method_rows(ways)
    delivered = next(i for i, way in enumerate(ways) if way.delivered)
    job.notes += advice(ways, rows, config, bench)
    job.notes += [note for w in written for note in w.notes]
    described = bench.describe()
    described["model"]["notes"] = [*bench.loaded.notes, *job.notes]
    figures = ("error", "nll", "ece", "ece_equal_mass", "brier")
    return {
        **described,
        "method": {"name": "sbn", "config": asdict(config)},
        "calibration": {
            "kind": config.calibrate,
            "split": job.calibration.place,
            "share": job.calibration.share,
            "temperature": network.temperature,
        },
        "fit": fit_section(
            member.collected, network.sampler, config.sampler, member.seconds, config.seed
        ),
        "original": {k: rows[0][k] for k in figures} | {"parameters": count_parameters(original)},
        "slim": {k: rows[delivered][k] for k in figures},
        "paired": rows[delivered]["paired"],
        "methods": rows,
        "verdict": verdict(ways, rows),
        **curves(_drawn(ways), ways[0].answers.log_probs.shape[1]),
        "latency": time_against_original(
            original, sampled(network), (sampled_name(network.samples), folder / MODEL_ONNX),
            shape, batches, config.threads_timed, job.progress, against="stochastic",
        ),
        "checks": [asdict(check) for check in checks],
    }  # fmt: skip


def _plan(job: Job, network: StochasticNet) -> Plan:
    """Describe the net and its noise, after whatever made the net."""
    config = job.config
    noise = noise_plan(network, config.sampler, config.batch_size, config.batches)
    return replace(plan_of(job.bench.loaded, "sbn"), noise=noise)


def _drawn(ways: Sequence[Way]) -> list[Way]:
    """Return the ways that the pictures show: those on all inputs, fitted means aside."""
    return [way for way in ways if way.name not in ("means", "mc-bn")]
