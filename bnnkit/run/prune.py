"""`prune`: from somebody's checkpoint to a slim, proven, timed model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnnkit.errors import StructureError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.compose import compose
from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.graph.rebuild import make_plan
from bnnkit.graph.settle import settle, slim_exactly
from bnnkit.graph.structure import Structure
from bnnkit.io.rundir import (
    METRICS,
    REPORT_HTML,
    run_directory,
    write_plan,
    write_report,
    write_text,
)
from bnnkit.io.runtimes import open_predictor
from bnnkit.methods import METHODS, Decision, Method
from bnnkit.run.artefacts import exactness, file_bytes, gated_predictor, speed, write_and_check
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.describe import class_rows, layer_rows, locked_rows, most_removable
from bnnkit.run.evaluate import Predictions, compare, measure, predictions
from bnnkit.run.evaluation import size_ratios
from bnnkit.run.gates import judge
from bnnkit.run.html import render_html
from bnnkit.run.latency import torch_threads
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import choose_device, choose_precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.request import (
    check_method,
    check_place,
    check_prune,
    check_rebuildable,
    check_rows,
    copied,
)
from bnnkit.run.setup import Bench, as_data_spec, as_model_spec, set_up
from bnnkit.run.verify import proof_size
from bnnkit.spec import DataSpec, ModelSpec, Plan, Report
from bnnkit.spec.config import PruneConfig
from bnnkit.spec.gates import GateOptions

__all__ = ["dry_run", "prune"]

_ROWS = 8


@dataclass
class _Job:
    """One pruning run."""

    bench: Bench
    config: PruneConfig
    device: torch.device
    progress: Progress
    argv: Sequence[str]
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.original = copied(self.bench.module).cpu().eval()
        self.structure = self._structure()

    def method(self) -> tuple[Method, torch.Generator]:
        """Return the method at its start and the generator of its noise.

        Raises:
            UsageError: Its settings name a layer that there is not.
        """
        config = self.config
        generator = torch.Generator(self.device).manual_seed(config.train.seed)
        made = METHODS[config.method](
            self.structure,
            config.sbp,
            len(self.bench.data.train),
            generator,
            round_to=config.round_to,
            device=self.device,
        )
        return made, generator

    def _structure(self) -> Structure:
        self.progress.start("finding channel classes")
        structure = analyse(self.bench.module, self.bench.example())
        structure = settle(self.bench.module, structure)
        structure = structure.restrict(self.config.include, self.config.exclude)
        self.progress.stop()
        if structure.note:
            self.notes.append(structure.note)
        return structure

    def plan(self, keep: torch.Tensor, theta: torch.Tensor, form: str) -> Plan:
        """Write a decision down, after whatever made the model that was operated on."""
        return compose(
            self.bench.loaded.plan,
            make_plan(
                self.structure,
                keep,
                theta,
                replace(self.bench.spec, file=None),
                form=form,
                method=self.config.method if self.config.removal_seed is None else "random",
            ),
        )

    def report(self, sections: dict[str, Any]) -> Report:
        described = self.bench.describe()
        described["model"]["notes"] = [*self.bench.loaded.notes, *self.notes]
        provenance = collect_provenance(
            self.argv,
            seed=self.config.train.seed,
            device=str(self.device),
            started=self.started,
        )
        method = {"name": self.config.method, "config": asdict(self.config)}
        return Report("prune", provenance, {**described, "method": method, **sections})


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
    spec = as_model_spec(model, arch)
    out = Path(out or f"{Path(spec.file or spec.arch or 'model').stem}-prune")
    check_prune(config, gates)
    check_place(out, force=force)
    device = choose_device(config.train.device)
    bench = set_up(spec, as_data_spec(data), seed=config.train.seed)
    check_rebuildable(bench.spec, bench.module)
    job = _Job(bench, config, device, progress or SilentProgress(), argv)
    check_rows(job.original, bench.inputs(_ROWS))
    if not job.structure.classes:
        reasons = "; ".join(dict.fromkeys(lock.reason for lock in job.structure.locked))
        raise StructureError(
            "Pruning", "no removable channel class", reasons[:300] or "the model has no layers",
            "Look at 'bnnkit inspect' for what is locked and why.",
        )  # fmt: skip
    job.method()  # which refuses its settings now, before anything is deleted or trained
    nothing = torch.ones(job.structure.n_units)
    job.plan(nothing.bool(), nothing, "modules")  # what cannot be written down is not trained
    before = _predict(job, job.original, "measuring the original")
    checkpoints = Checkpoints(out, _identity(job), resume=resume, force=force)
    with checkpoints.resumable():
        with torch_threads(config.train.threads):
            trained, decision = _learn(job, checkpoints)
        with run_directory(out, force=True) as folder:
            report = _deliver(job, trained, decision, before, folder, checkpoints)
            report.sections["out"] = str(out)
            if gates is not None:
                report.gates = judge(report, gates).rows
            write_report(folder, report)
            write_text(folder / REPORT_HTML, render_html(report))
    return report


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
    config = config or PruneConfig()
    check_method(config)
    bench = set_up(as_model_spec(model, arch), as_data_spec(data), seed=config.train.seed)
    job = _Job(bench, config, torch.device("cpu"), progress or SilentProgress(), argv)
    if job.structure.classes:
        job.method()
    return job.report(
        {
            "classes": class_rows(job.structure),
            "locked": locked_rows(job.structure),
            "removable": most_removable(job.original, job.structure),
        }
    )


def _identity(job: _Job) -> dict[str, Any]:
    """Return what a resumed run must share with the broken one."""
    spec = job.bench.spec
    return {
        "model": spec.file,
        "arch": spec.arch,
        "arch_args": dict(spec.arch_args),
        "code": spec.arch_digest,
        "method": job.config.method,
        "mean": list(job.bench.data.mean),
        "std": list(job.bench.data.std),
        "data": job.bench.data.fingerprint,
        **{f"train.{k}": v for k, v in asdict(job.config.train).items()},
        **{f"sbp.{k}": v for k, v in asdict(job.config.sbp).items()},
        "include": list(job.config.include),
        "exclude": list(job.config.exclude),
    }


# --- learn ----------------------------------------------------------------------------------


def _learn(job: _Job, checkpoints: Checkpoints) -> tuple[nn.Module, Decision]:
    """Train with noise, decide, and train on with the decision frozen."""
    config, structure = job.config, job.structure
    precision = choose_precision(config.train.precision, job.device)
    model = precision.prepare(job.bench.module.to(job.device))
    method, generator = job.method()
    calm = round(config.train.epochs * config.sbp.finetune)
    noisy = config.train.epochs - calm
    trainer = Trainer(
        model,
        job.bench.data.train,
        config.train,
        precision,
        job.device,
        method,
        checkpoints,
        job.progress,
        checkpoints.log,
        generator,
        phase="noise",
    )
    with method.attach(model):
        trainer.run(0, noisy)
    if config.removal_seed is None:
        decision = method.decide()
    else:
        decision = _random_decision(structure, config.removal_seed, config.round_to)
    if calm:
        frozen = FixedGates(decision.theta.to(job.device))
        trainer = replace(trainer, method=None, phase="finetune", generator=None)
        with attach(model, structure, frozen):
            trainer.run(noisy, config.train.epochs)
    return model.cpu().eval(), decision


def _random_decision(structure: Structure, seed: int, round_to: int) -> Decision:
    """Close a random half of the units: a structural exercise, nothing is learned."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.rand(structure.n_units, generator=generator)
    keep, reopened = structure.ensure_alive(score >= 0.5, score)
    if round_to > 1:
        keep = structure.round_up(keep, score, round_to)
    theta = torch.rand(structure.n_units, generator=generator) * 0.5 + 0.5
    return Decision(keep, theta * keep, score, tuple(reopened))


# --- deliver --------------------------------------------------------------------------------


def _predict(job: _Job, model: nn.Module, what: str) -> Predictions:
    job.progress.start(what)
    device = str(job.device)
    predictor = open_predictor(copy.deepcopy(model).to(job.device), device=device)
    found = predictions(predictor, job.bench.data.test, device=device)
    job.progress.stop()
    return found


def _deliver(
    job: _Job,
    trained: nn.Module,
    decision: Decision,
    before: Predictions,
    folder: Path,
    checkpoints: Checkpoints,
) -> Report:
    """Remove, prove, write, measure and time; anything that disagrees ends the run."""
    config, shape = job.config, tuple(job.bench.data.input_shape)
    inputs = job.bench.inputs(proof_size(shape), config.train.seed)
    job.progress.start("removing closed channels, proving it in float64")
    slimmed = slim_exactly(trained, job.structure, decision.keep, decision.theta, inputs)
    job.progress.stop()
    slim = slimmed.model.eval()
    plan = job.plan(decision.keep, decision.theta, slimmed.form)
    gated = gated_predictor(trained, job.structure, decision.theta)
    checks, written = write_and_check(
        folder, slim, gated, plan, inputs, config.formats, job.progress
    )
    write_plan(folder, plan)
    curve = checkpoints.curve()
    checkpoints.write_curve(folder / METRICS)
    job.notes += [note for w in written for note in w.notes]
    job.notes += [f"class {n} closed whole; its best unit was kept" for n in decision.reopened]
    job.notes += _advice(job, decision, before)
    if slimmed.form == "graph":
        job.notes.append(
            "the model's code holds sizes that do not follow: its graph was rewritten"
        )
    after = _predict(job, slim, "measuring the slim model")
    latency = speed(
        job.original, slim, folder, shape, config.batches, config.threads, job.progress
    )
    sizes = {"original": _sizes(job.original, shape), "slim": _sizes(slim, shape)}
    return job.report(
        {
            "original": {**measure(before), **sizes["original"]},
            "slim": {**measure(after), **sizes["slim"]},
            "paired": compare(before, after),
            "ratios": size_ratios(sizes["original"], sizes["slim"]),
            "latency": latency,
            "classes": class_rows(
                job.structure, decision.keep, decision.evidence, decision.theta
            ),
            "locked": locked_rows(job.structure),
            "layers": layer_rows(job.original, slim, shape),
            "checks": [exactness(slimmed), *(asdict(c) for c in checks)],
            "curve": curve,
        }
    )  # fmt: skip


def _advice(job: _Job, decision: Decision, before: Predictions) -> list[str]:
    """Return what somebody who sees these figures should know."""
    out = []
    chance = 100 * (1 - 1 / before.log_probs.shape[1])
    error = measure(before)["error"].value
    if error > 0.8 * chance:
        out.append(
            f"the original itself has {error:.1f} % error, near chance: are the weights, "
            "--normalize, --mean and --std right?"
        )
    closed = int((~decision.keep).sum())
    learned = job.config.removal_seed is None and job.config.train.epochs > 0
    if learned and closed < 0.05 * len(decision.keep):
        out.append(
            f"the evidence closed {closed} of {len(decision.keep)} units: a compact net gives "
            f"little away in {job.config.train.epochs} epochs; train longer, or weigh the KL "
            f"with --kl-scale {10 * max(1.0, job.config.sbp.kl_scale):g}"
        )
    return out


def _sizes(model: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    return {
        "parameters": count_parameters(model),
        "macs": count_macs(model, shape),
        "file_bytes": file_bytes(model),
    }
