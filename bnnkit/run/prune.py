"""`prune`: from somebody's checkpoint to a slim, proven, timed model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bnnkit.errors import StructureError
from bnnkit.io.rundir import REPORT_HTML, run_directory, write_report, write_text
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.describe import class_rows, locked_rows, most_removable
from bnnkit.run.gates import judge
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.pruning.deliver import deliver
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.search import learn, rehearse
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import (
    check_method,
    check_place,
    check_prune,
    check_rebuildable,
    check_rows,
)
from bnnkit.run.setup import as_data_spec, as_model_spec, set_up
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.gates import GateOptions
from bnnkit.spec.prune import PruneConfig

__all__ = ["dry_run", "prune"]

_ROWS = 8


def prune(
    model: ModelSpec | str | Path,
    data: DataSpec | str,
    config: PruneConfig | None = None,
    *,
    arch: str | None = None,
    out: str | Path | None = None,
    gates: GateOptions | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Prune a pretrained model and write a run directory.

    Args:
        model: The checkpoint.
        data: What it was trained on.
        config: Method, loop, layers and forms; the defaults are the command's.
        arch: The architecture, where `model` is only a file.
        out: The run directory; `<model stem>-prune` in the working directory if None.
        gates: Limits that the report judges itself by.
        resume: Continue an unfinished run in `out`.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: The model or the data cannot be used, training diverged, or a written form
            disagrees with the model it was made from; then nothing is written.
    """
    config = config or PruneConfig()
    config = config.aimed(gates)
    spec, named = as_model_spec(model, arch), as_data_spec(data)
    out = Path(out or f"{Path(spec.file or spec.arch or 'model').stem}-prune")
    check_prune(config, gates)
    check_place(out, force=force, reads=[spec.file])
    device = choose_device(config.train.device)
    bench = set_up(spec, named, seed=config.train.seed)
    check_rebuildable(bench.spec, bench.module)
    job = Job(bench, named, config, device, progress or SilentProgress(), argv)
    check_rows(job.original, bench.inputs(_ROWS))
    if not job.structure.classes:
        reasons = "; ".join(dict.fromkeys(lock.reason for lock in job.structure.locked))
        raise StructureError(
            "Pruning", "no removable channel class", reasons[:300] or "the model has no layers",
            "Look at 'bnnkit inspect' for what is locked and why.",
        )  # fmt: skip
    rehearse(job)  # what would be refused in the end is refused before anything is trained
    _note_met(job)
    before = job.predict(job.original, bench.data.test, "measuring the original")
    checkpoints = Checkpoints(out, job.identity(), resume=resume, force=force)
    with checkpoints.resumable():
        with torch_threads(config.train.threads):
            learned = learn(job, checkpoints)
        with run_directory(out, force=True) as folder:
            report = deliver(job, learned.stage, before, folder, checkpoints)
            report.sections |= {**learned.sections, "out": str(out)}
            if gates is not None:
                report.gates = judge(report, gates).rows
            write_report(folder, report)
            write_text(folder / REPORT_HTML, render_html(report))
    return report


def _note_met(job: Job) -> None:
    """Say so where the untouched original is all that was asked for."""
    everything = torch.ones(job.structure.n_units, dtype=torch.bool)
    goal = None if job.config.removal_seed is not None else job.costs.goal(everything)
    if goal is not None and (total := goal.cost.total(everything)) <= goal.limit:
        job.notes.append(
            f"the target was met from the start: the original has {total:,.10g} {goal.cost.unit}, "
            f"and {goal.limit:,.10g} were asked for; nothing had to go"
        )


def dry_run(
    model: ModelSpec | str | Path,
    data: DataSpec | str,
    config: PruneConfig | None = None,
    *,
    arch: str | None = None,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Return what could be removed, what is locked and why, and the most that could be saved."""
    config = (config or PruneConfig()).aimed(None)
    check_method(config)
    named = as_data_spec(data)
    bench = set_up(as_model_spec(model, arch), named, seed=config.train.seed)
    device = torch.device("cpu")
    job = Job(bench, named, config, device, progress or SilentProgress(), argv)
    if job.structure.classes:
        rehearse(job)
    return job.report(
        {
            "classes": class_rows(job.structure),
            "locked": locked_rows(job.structure),
            "removable": most_removable(job.original, job.structure),
        }
    )
