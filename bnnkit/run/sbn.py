"""`sbn-fit`: stochastic batch norm for a pretrained net, measured beside what else there is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.graph.count import count_parameters
from bnnkit.io.data import Split, load_data, other_classes
from bnnkit.io.models import load_model
from bnnkit.io.rundir import (
    REPORT_HTML,
    run_directory,
    write_plan,
    write_report,
    write_text,
)
from bnnkit.methods.sbn import Collected, StochasticNet, collect, make_network, with_carriers
from bnnkit.run import answers as ways_to_answer
from bnnkit.run.answers import Answers
from bnnkit.run.calibration import Calibration, plan_calibration
from bnnkit.run.evaluate import check_outputs, classes_of
from bnnkit.run.fit_report import fit_section
from bnnkit.run.gates import judge
from bnnkit.run.guards import advice, trained_batch_size
from bnnkit.run.html import render_html
from bnnkit.run.latency import torch_threads
from bnnkit.run.precision import choose_device
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.request import check_place, check_rebuildable, copied
from bnnkit.run.setup import Bench, as_data_spec, as_model_spec, set_up
from bnnkit.run.side_by_side import Way, curves, method_rows, verdict
from bnnkit.run.stochastic import cost, noise_plan, write_stochastic
from bnnkit.spec import DataSpec, ModelSpec, Plan, Report
from bnnkit.spec.config import SbnConfig
from bnnkit.spec.gates import GateOptions

__all__ = ["OTHER_CLASSES", "sbn_fit"]

OTHER_CLASSES = "other-classes"
"""As `--ood`: the classes that `--classes` leaves out."""

_LABELS = {
    "factorised": "factorised SBN",
    "layer-gaussian": "layer-wise SBN",
    "lowrank": "low-rank SBN",
    "replay": "replayed SBN",
}
_PROOF = 64
_PROOF_NUMBERS = 64 * 3 * 64 * 64


@dataclass
class _Member:
    """One net, its statistics and what was made of them."""

    net: nn.Module
    collected: Collected
    network: StochasticNet
    seconds: float


@dataclass
class _Job:
    """One fit."""

    bench: Bench
    config: SbnConfig
    device: torch.device
    progress: Progress
    calibration: Calibration
    outside: dict[str, Split]
    notes: list[str] = field(default_factory=list)

    def networks(self) -> tuple[str, ...]:
        """Return the samplers to measure, the delivered one first."""
        return tuple(dict.fromkeys((self.config.sampler, *self.config.compare)))

    def parts(self) -> dict[str, Split]:
        """Return every set of inputs that each way answers to."""
        held = {"held": self.calibration.held} if self.calibration.held is not None else {}
        return {"measured": self.calibration.measured, **held, **self.outside}


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
    check_place(out, force=force)
    job = _prepare(spec, as_data_spec(data), config, progress or SilentProgress())
    others = [as_model_spec(m, spec.arch) for m in members]
    with torch_threads(config.threads):
        first, rest = _fit_all(job, others)
        ways = _measure(job, first, rest)
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


def _prepare(spec: ModelSpec, data: DataSpec, config: SbnConfig, progress: Progress) -> _Job:
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
        calibration = Calibration("none", 0.0, bench.data.test)
    job = _Job(bench, config, device, progress, calibration, outside)
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


# --- fit ------------------------------------------------------------------------------------


def _fit_all(job: _Job, others: Sequence[ModelSpec]) -> tuple[_Member, list[_Member]]:
    """Fit the net, and the further members of an ensemble."""
    first = _fit(job, job.bench.module.to(job.device), "fitting the statistics")
    rest = []
    for i, spec in enumerate(others):
        net = load_model(spec).module
        check_outputs(classes_of(net, job.bench.inputs(2)), job.bench.data.test)
        rest.append(_fit(job, net.to(job.device), f"fitting member {i + 2}"))
    return first, rest


def _fit(job: _Job, net: nn.Module, what: str) -> _Member:
    """Collect the statistics of a net and build the stochastic one."""
    config = job.config
    started = time.perf_counter()
    carried, shared = with_carriers(net)
    job.progress.start(what, config.batches)
    collected = collect(
        carried, shared, _batches(job), config.batches, device=job.device,
        on_batch=job.progress.advance,
    )  # fmt: skip
    job.progress.stop()
    x = job.bench.inputs(_PROOF).to(job.device)
    network = _network(job, net, collected, config.sampler, x)
    return _Member(net.eval(), collected, network, time.perf_counter() - started)


def _network(
    job: _Job, net: nn.Module, collected: Collected, sampler: str, x: Tensor
) -> StochasticNet:
    config = job.config
    return make_network(
        net, collected, sampler, x, rank=config.rank, samples=config.samples, seed=config.seed
    )


def _batches(job: _Job) -> Iterator[Tensor]:
    """Yield training batches as in training, epoch after epoch."""
    generator = torch.Generator().manual_seed(job.config.seed)
    train, size = job.bench.data.train, job.config.batch_size
    while len(train) >= size:
        for x, _ in train.batches(
            size, shuffle=True, augment=True, generator=generator, drop_last=True
        ):
            yield x


# --- measure --------------------------------------------------------------------------------


def _measure(job: _Job, first: _Member, rest: Sequence[_Member]) -> list[Way]:
    """Let every way to predict answer to the same inputs."""
    plain = _plain(job, first, "batch norm")
    found: dict[str, tuple[str, dict[str, Answers]]] = {
        "bn": ("batch norm", plain),
        "means": ("fitted means", _means(job, first)),
    }
    x = job.bench.inputs(_PROOF).to(job.device)
    for name in job.networks():
        delivered = name == job.config.sampler
        network = (
            first.network if delivered else _network(job, first.net, first.collected, name, x)
        )
        found[name] = (_LABELS[name], _answers(job, network, _LABELS[name]))
    dropped = _dropout(job, first)
    if dropped:
        found["mc-dropout"] = ("MC dropout", dropped)
    if rest:
        found |= _ensembles(job, plain, found[job.config.sampler][1], rest)
    ways = _calibrated(job, found)
    if job.config.mc_batch_norm:
        ways.append(_mc_batch_norm(job, first, ways[0]))
    return ways


def _calibrated(job: _Job, found: dict[str, tuple[str, dict[str, Answers]]]) -> list[Way]:
    """Return each way, and those that are worth it at a fitted temperature as well."""
    reference = found["bn"][1]["measured"]
    calibrated = job.config.calibrate == "temperature"
    heated = {"bn", *job.networks(), "ensemble", "ensemble-sbn", "mc-dropout"}
    ways = []
    for name, (label, parts) in found.items():
        outside = {key: parts[key] for key in job.outside}
        chosen = name == job.config.sampler
        ways.append(
            Way(name, label, parts["measured"], reference, outside,
                delivered=chosen and not calibrated, held=parts.get("held"))
        )  # fmt: skip
        if not calibrated or name not in heated:
            continue
        answers, temperature = job.calibration.temper(parts["measured"], parts.get("held"))
        hot = {key: theirs.at_temperature(temperature) for key, theirs in outside.items()}
        full = "temperature" if name == "bn" else f"{name}+temperature"
        title = f"{label} + temperature"
        ways.append(Way(full, title, answers, reference, hot, temperature, delivered=chosen))
    return ways


def _over(job: _Job, what: str, answer: Any) -> dict[str, Answers]:  # noqa: ANN401 - a function
    """Let one way answer to every set of inputs."""
    parts = job.parts()
    job.progress.start(f"measuring {what}", sum(map(len, parts.values())))
    found = {name: answer(split) for name, split in parts.items()}
    job.progress.stop()
    return found


def _plain(job: _Job, member: _Member, what: str) -> dict[str, Answers]:
    return _over(
        job, what,
        lambda split: ways_to_answer.plain(
            member.net, member.network.probabilities, split, job.device, job.progress.advance
        ),
    )  # fmt: skip


def _means(job: _Job, member: _Member) -> dict[str, Answers]:
    """Answer with the means of the fitted statistics, without noise."""
    network, mean = member.network, member.collected.moments.mean.float()[None]

    def answer(split: Split) -> Answers:
        return ways_to_answer.of_statistics(
            network, mean.to(job.device), split, device=job.device, on_batch=job.progress.advance
        )

    return _over(job, "fitted means", answer)


def _answers(job: _Job, network: StochasticNet, what: str) -> dict[str, Answers]:
    return _over(
        job, what,
        lambda split: ways_to_answer.of_network(
            network, split, device=job.device, on_batch=job.progress.advance
        ),
    )  # fmt: skip


def _dropout(job: _Job, member: _Member) -> dict[str, Answers]:
    """Answer by MC dropout; nothing where the net drops nothing."""
    if not ways_to_answer.dropouts(member.net):
        return {}
    return _over(
        job, "MC dropout",
        lambda split: ways_to_answer.mc_dropout(
            member.net, member.network.probabilities, split, samples=job.config.samples,
            seed=job.config.seed, device=job.device, on_batch=job.progress.advance,
        ),
    )  # fmt: skip


def _ensembles(
    job: _Job,
    plain: dict[str, Answers],
    noisy: dict[str, Answers],
    rest: Sequence[_Member],
) -> dict[str, tuple[str, dict[str, Answers]]]:
    """Average several nets, each with its own batch norm and each under its noise."""
    count = len(rest) + 1
    nets, noises = [plain], [noisy]
    for i, member in enumerate(rest):
        nets.append(_plain(job, member, f"member {i + 2}"))
        noises.append(_answers(job, member.network, f"member {i + 2} under noise"))
    averaged = [
        {part: ways_to_answer.ensemble([m[part] for m in group]) for part in plain}
        for group in (nets, noises)
    ]
    return {
        "ensemble": (f"ensemble of {count}", averaged[0]),
        "ensemble-sbn": (f"ensemble of {count}, each under SBN", averaged[1]),
    }


def _mc_batch_norm(job: _Job, member: _Member, first: Way) -> Way:
    """Answer to some inputs, each inside real training batches."""
    config, measured = job.config, job.calibration.measured
    generator = torch.Generator().manual_seed(config.seed)
    rows = torch.randperm(len(measured), generator=generator)[: config.mc_batch_norm]
    job.progress.start("measuring MC-BN", len(rows))
    found = ways_to_answer.mc_batch_norm(
        member.network, measured.select(rows), job.bench.data.train,
        batch_size=config.batch_size, samples=config.samples, generator=generator,
        device=job.device, on_batch=job.progress.advance,
    )  # fmt: skip
    job.progress.stop()
    return Way("mc-bn", "MC-BN", found, first.answers.select(rows))


# --- deliver --------------------------------------------------------------------------------


def _deliver(job: _Job, member: _Member, ways: list[Way], folder: Path) -> dict[str, Any]:
    """Write, prove and time the stochastic net, and return what the report says."""
    config, bench, shape = job.config, job.bench, tuple(job.bench.data.input_shape)
    network = member.network.cpu()
    original = copied(member.net).cpu().eval()
    inputs = bench.inputs(_proof_size(shape), config.seed)
    if job.device.type != "cpu":
        network.choose(inputs)  # what was the faster way there need not be it here
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
        "latency": cost(
            original, network, folder, shape, config.batches_timed, config.threads_timed,
            job.progress,
        ),
        "checks": [asdict(check) for check in checks],
    }  # fmt: skip


def _plan(job: _Job, network: StochasticNet) -> Plan:
    """Describe the net and its noise, after whatever made the net."""
    config = job.config
    base = job.bench.loaded.plan or Plan(model=replace(job.bench.spec, file=None), method="sbn")
    noise = noise_plan(network, config.sampler, config.batch_size, config.batches)
    return replace(base, noise=noise)


def _drawn(ways: Sequence[Way]) -> list[Way]:
    """Return the ways that the pictures show: those on all inputs, fitted means aside."""
    return [way for way in ways if way.name not in ("means", "mc-bn")]


def _proof_size(shape: tuple[int, ...]) -> int:
    """Return how many inputs a proof takes: fewer of large ones."""
    numbers = max(1, int(torch.tensor(shape).prod()))
    return max(4, min(_PROOF, _PROOF_NUMBERS // numbers))
