"""`sweep`: several methods, targets and seeds on one model, side by side."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnnkit.errors import BnnkitError, ExitCode, UsageError, did_you_mean
from bnnkit.io.rundir import REPORT_HTML, write_report, write_text
from bnnkit.methods import METHODS, RANKINGS
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.prune import prune
from bnnkit.run.reporting.digest import section
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place, check_prune, check_rebuildable
from bnnkit.run.setup import Bench, as_data_spec, as_model_spec, set_up
from bnnkit.run.sweeping.resume import check_same, finished_report, for_sweep
from bnnkit.run.sweeping.rows import cell_row, mark_fronts, pooled_rows, settings_of
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.sweep import Cell, SweepConfig

__all__ = ["CELLS", "exit_code", "sweep"]

CELLS = "cells"
"""The folder of the cells' run directories."""


def sweep(
    model: ModelSpec | str | Path,
    data: DataSpec | str,
    config: SweepConfig | None = None,
    *,
    arch: str | None = None,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Prune one model by several methods, targets and seeds, and write what came out.

    What is in `out` already is gone on with: a cell that is done is taken over, one that was
    broken off is resumed, and one that failed is tried again. The report is written after each
    cell. A cell that `prune` refuses is recorded with the refusal's sentence, and the others run.

    Args:
        model: The checkpoint.
        data: What it was trained on.
        config: Methods, targets, seeds, and what all cells share.
        arch: The architecture, where `model` is only a file.
        out: The folder; `<model stem>-sweep` in the working directory if None. Cells are run
            directories in `out/cells`.
        force: Run every cell anew.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        The report, as written to `out/report.json`.

    Raises:
        BnnkitError: Model or data cannot be used, a method is not known, or `out` holds something
            else: other settings, another model, other data.
    """
    config = config or SweepConfig()
    _check_cells(config)
    spec, named = as_model_spec(model, arch), as_data_spec(data)
    if spec.file is None:
        raise UsageError(
            "Sweeping", f"{spec.arch!r} without a file",
            "fresh weights of another seed are another model", "Name a checkpoint.",
        )  # fmt: skip
    out = Path(out or f"{Path(spec.file).stem}-sweep")
    _check_place(out, config)
    device = choose_device(config.base.train.device)
    bench = set_up(spec, named, seed=config.seeds[0])
    check_rebuildable(bench.spec, bench.module)
    run = _Sweep(spec, named, config, bench, out, str(device), argv)
    if force:
        run.clear()
    else:
        run.take_over()
    return run.go(progress or SilentProgress())


def exit_code(report: Report) -> ExitCode:
    """Return what the process answers: the first failure's code where every cell failed."""
    cells = section(report.to_dict(), "sweep").get("cells", [])
    failed = [cell for cell in cells if cell["status"] == "failed"]
    return ExitCode(failed[0]["code"]) if cells and len(failed) == len(cells) else ExitCode.OK


def _check_cells(config: SweepConfig) -> None:
    """Refuse what one look at the settings refuses."""
    known = [*METHODS, *RANKINGS]
    for method in config.methods:
        if method not in known:
            raise UsageError(
                "Sweeping", f"--methods {method!r}", "it is not known", did_you_mean(method, known)
            )
        if method in RANKINGS and not any(config.targets()):
            raise UsageError(
                "Sweeping", f"--methods {method!r} without a target",
                "it ranks units and cannot tell how many to remove",
                "Add a target, such as --target-macs 0.5,0.33.",
            )  # fmt: skip
    for cell in config.cells():
        check_prune(cell.config)


def _check_place(out: Path, config: SweepConfig) -> None:
    """Refuse a folder that could not be written, or that holds another command's run."""
    body = finished_report(out)
    if body is not None and body["command"] != "sweep":
        raise UsageError(
            "Writing a sweep", f"a run of 'bnnkit {body['command']}' in {str(out)!r}",
            "it would be overwritten", "Name another folder with --out.",
        )  # fmt: skip
    for cell in config.cells():
        check_place(out / CELLS / cell.name, force=True)


@dataclass
class _Sweep:
    """One sweep.

    Args:
        spec: How the model was named.
        data: How the data were named.
        config: What is asked for.
        bench: The model and its data.
        out: The folder.
        device: Where cells are trained.
        argv: The command line, for the reports.
    """

    spec: ModelSpec
    data: DataSpec
    config: SweepConfig
    bench: Bench
    out: Path
    device: str
    argv: Sequence[str]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, BnnkitError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        described = self.bench.describe()
        described["model"]["weights"] = _weights_digest(self.bench.module)
        self.described: dict[str, Any] = described

    # --- what is there already --------------------------------------------------------------

    def clear(self) -> None:
        """Remove the run directories of the cells, which were found to hold nothing else."""
        for cell in self.config.cells():
            shutil.rmtree(self.out / CELLS / cell.name, ignore_errors=True)

    def take_over(self) -> None:
        """Take over the cells that are done.

        Raises:
            UsageError: A report there is of something else.
        """
        if (body := finished_report(self.out)) is not None:
            before = section(section(body, "method"), "config").get("base")
            check_same(self.out, body, self.described, before, self.config.base)
        for cell in self.config.cells():
            folder = self.out / CELLS / cell.name
            if (found := finished_report(folder)) is not None:
                before = section(found, "method").get("config")
                check_same(folder, found, self.described, before, cell.config.aimed(None))
                self.done[cell.name] = found

    # --- run --------------------------------------------------------------------------------

    def go(self, progress: Progress) -> Report:
        """Run every cell that is not done, and write the report after each."""
        cells = self.config.cells()
        report = self.write()
        try:
            for number, cell in enumerate(cells, 1):
                counted = f"cell {number} of {len(cells)}, {cell.name}"
                if cell.name in self.done:
                    progress.note(f"{counted}: done before")
                    continue
                progress.note(counted)
                self._run(cell, counted, progress)
                report = self.write()
        finally:  # a sweep that is stopped leaves the page of what it has
            write_text(self.out / REPORT_HTML, render_html(report))
        return report

    def _run(self, cell: Cell, counted: str, progress: Progress) -> None:
        folder = self.out / CELLS / cell.name
        try:
            prune(
                self.spec, self.data, cell.config, out=folder, resume=True, progress=progress,
                argv=self.argv,
            )  # fmt: skip
        except BnnkitError as error:
            progress.stop()
            self.failed[cell.name] = for_sweep(error, folder)
            progress.note(f"{counted}: {self.failed[cell.name]}")
        except KeyboardInterrupt:
            again = "Go on with the same command, without --force."
            raise KeyboardInterrupt(f"Stopped in {counted}. {again}") from None
        else:
            body = finished_report(folder)
            assert body is not None  # `prune` has just written it
            self.done[cell.name] = body

    def write(self) -> Report:
        """Write what is known by now."""
        report = self._report()
        self.out.mkdir(parents=True, exist_ok=True)
        write_report(self.out, report)
        return report

    def _report(self) -> Report:
        settings = settings_of(self.done.values())
        cells = [cell_row(c, self.done.get(c.name), settings) for c in self.config.cells()]
        for row in cells:
            if (error := self.failed.get(row["name"])) is not None:
                row |= {"status": "failed", "why": str(error), "code": int(error.code)}
        original = next((section(body, "original") for body in self.done.values()), {})
        rows = pooled_rows(cells)
        mark_fronts(rows, original.get("error"), settings)
        sections = {
            **self.described,
            "method": {"name": ", ".join(self.config.methods), "config": asdict(self.config)},
            **({"original": dict(original)} if original else {}),
            "sweep": {"settings": settings, "rows": rows, "cells": cells},
            "out": str(self.out),
        }
        provenance = collect_provenance(self.argv, device=self.device, started=self.started)
        return Report("sweep", provenance, sections)


def _weights_digest(module: nn.Module) -> str:
    """Return the sha256 over a module's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
