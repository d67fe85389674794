"""`train` for what makes images: a GAN by its two losses, a VAE by its evidence bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.graph.outputs import main_output
from bnnkit.io.architectures import (
    accepts_argument,
    build_architecture,
)
from bnnkit.io.checkpoint import read_checkpoint
from bnnkit.io.export import write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.pictures import write_grid
from bnnkit.io.rundir import (
    DISCRIMINATOR,
    METRICS,
    MODEL_SAFETENSORS,
    REPORT_HTML,
    SAMPLES_PNG,
    run_directory,
    write_plan,
    write_report,
    write_text,
)
from bnnkit.io.sniff import FileKind, sniff
from bnnkit.metrics import mean_interval
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.generative.loop import Adversaries, Autoencoder, train_epochs
from bnnkit.run.generative.setup import (
    GenerativeJob,
    check_generative,
    identity_of,
    set_up_generative,
)
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.precision import Precision, choose_device, choose_precision
from bnnkit.run.progress import Progress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place
from bnnkit.spec import DataSpec, ModelSpec, Plan, Quantity, Report
from bnnkit.spec.config import TrainConfig
from bnnkit.spec.generator import LatentSpec
from bnnkit.zoo import GENERATIVE, Generative

__all__ = ["generative_task", "train_generative"]

_SAMPLES = 64
_WITH_PLAN = (FileKind.RUN, FileKind.SAFETENSORS)
_OBJECTIVES = {
    "generator": "non-saturating loss, spectral norm in the discriminator, averaged weights",
    "autoencoder": "evidence lower bound, Bernoulli likelihood of binarised pixels",
}


def generative_task(spec: ModelSpec) -> Generative | None:
    """Return what the zoo says of an architecture that makes images; None for all others.

    Args:
        spec: The model; where it names no architecture, that in the file's plan counts.

    Raises:
        BnnkitError: The file cannot be read.
    """
    arch = spec.arch
    # no other file carries a plan
    if arch is None and spec.file is not None and sniff(spec.file).kind in _WITH_PLAN:
        plan = read_checkpoint(spec.file).plan
        arch = None if plan is None else plan.model.arch
    provider, _, name = (arch or "").partition(":")
    return GENERATIVE.get(name) if provider == "bnnkit" else None


def train_generative(
    spec: ModelSpec,
    data: DataSpec,
    task: Generative,
    config: TrainConfig,
    *,
    out: Path,
    resume: bool,
    force: bool,
    progress: Progress,
    argv: Sequence[str] = (),
) -> Report:
    """Train a generator or an autoencoder of the zoo and write a run directory.

    Args:
        spec: The model; its input shape is that of the images.
        data: The images; their classes are not read.
        task: What the zoo says of the architecture.
        config: Epochs, rates and so on.
        out: The run directory.
        resume: Continue an unfinished run in `out`.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Raises:
        BnnkitError: The model or the data cannot be used, or training diverged.
    """
    started = datetime.now(UTC)
    check_generative(config, data, task)
    check_place(out, force=force)
    device = choose_device(config.device)
    job = set_up_generative(spec, data, task, config.seed)
    checkpoints = Checkpoints(out, identity_of(job, config), resume=resume, force=force)
    with checkpoints.resumable(), torch_threads(config.threads):
        if task.task == "generator":
            model, opponent, found = _train_gan(job, config, device, checkpoints, progress)
        else:
            model, opponent, found = _train_vae(job, config, device, checkpoints, progress)
        images = _samples(job, model.cpu().eval(), config.seed)
    plan = Plan(model=replace(job.loaded.spec, file=None), method="train")
    with run_directory(out, force=True) as folder:
        weights = write_safetensors(model, folder / MODEL_SAFETENSORS, plan)
        if opponent is not None:
            write_safetensors(opponent.module.cpu(), folder / DISCRIMINATOR, opponent.plan)
        write_plan(folder, plan)
        write_grid(images, folder / SAMPLES_PNG)
        checkpoints.write_curve(folder / METRICS)
        sizes = {
            "parameters": count_parameters(model),
            "macs": count_macs(model, job.reads),
            "file_bytes": weights.bytes,
        }
        report = Report(
            "train",
            collect_provenance(argv, seed=config.seed, device=str(device), started=started),
            {
                "out": str(out),
                **_describe(job),
                "method": {
                    "name": "train",
                    "objective": _OBJECTIVES[task.task],
                    "config": asdict(config),
                },
                "generator": {
                    "latent": str(LatentSpec("normal", job.latent)),
                    "out_range": list(job.out_range),
                    "shape": list(job.image),
                    **found,
                },
                "slim": sizes,
                "curve": checkpoints.curve(),
            },
        )
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report


# --- training -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Opponent:
    """The discriminator, with the plan that lets its file load alone."""

    module: nn.Module
    plan: Plan


_Trained = tuple[nn.Module, _Opponent | None, dict[str, Any]]


def _train_gan(
    job: GenerativeJob,
    config: TrainConfig,
    device: torch.device,
    checkpoints: Checkpoints,
    progress: Progress,
) -> _Trained:
    """Train a generator against its discriminator."""
    opponent = _opponent(job, config.seed)
    precision = _precision(config, device)
    learner = Adversaries(
        precision.prepare(job.loaded.module.to(device)),
        precision.prepare(opponent.module.to(device)),
        job.latent,
        config,
        precision,
        device,
    )
    train_epochs(learner, job.data.train, config, checkpoints, progress)
    generator, _ = learner.finish(config.batch_size)
    return generator, opponent, {}


def _precision(config: TrainConfig, device: torch.device) -> Precision:
    """Choose the number format: `auto` is float32, since the nets are small and two must agree."""
    name = "fp32" if config.precision == "auto" else config.precision
    return choose_precision(name, device)


def _opponent(job: GenerativeJob, seed: int) -> _Opponent:
    """Return the discriminator beside the generator's weights, or a fresh one of its size."""
    spec = job.loaded.spec
    beside = None if spec.file is None else Path(spec.file) / DISCRIMINATOR
    if beside is not None and beside.is_file():
        loaded = load_model(ModelSpec(file=str(beside)))
        assert loaded.plan is not None  # such a file carries one
        job.notes.append("the discriminator of that run is trained on")
        return _Opponent(loaded.module, loaded.plan)
    if spec.file is not None:
        job.notes.append("its discriminator starts from fresh weights")
    arch = f"bnnkit:{job.task.discriminator}"
    flat = job.task.sized_by == "in_features"
    args: dict[str, Any] = {job.task.sized_by: math.prod(job.image) if flat else job.image[0]}
    if "width" in spec.arch_args and accepts_argument(arch, "width"):
        args["width"] = spec.arch_args["width"]
    module = build_architecture(arch, args, seed=seed + 1)
    shape = (math.prod(job.image),) if flat else job.image
    model = ModelSpec(arch=arch, arch_args=args, input_shape=shape)
    return _Opponent(module, Plan(model=model, method="train"))


def _train_vae(
    job: GenerativeJob,
    config: TrainConfig,
    device: torch.device,
    checkpoints: Checkpoints,
    progress: Progress,
) -> _Trained:
    """Train an autoencoder, and measure its bound on the test part."""
    precision = _precision(config, device)
    model = precision.prepare(job.loaded.module.to(device))
    learner = Autoencoder(model, config, precision, device)
    train_epochs(learner, job.data.train, config, checkpoints, progress)
    progress.start("measuring")
    model.eval()
    source = torch.Generator().manual_seed(0)  # the same pixels whatever the seed of the training
    with torch.no_grad():
        batches = job.data.test.batches(500)
        parts = (learner.elbo_parts(x, source) for x, _ in batches)
        bounds = torch.cat([(likelihood - kl).double().cpu() for likelihood, kl in parts])
    progress.stop()
    low, high = mean_interval(bounds)
    elbo = Quantity(float(bounds.mean()), "nats", len(bounds), low, high)
    return model, None, {"elbo": elbo}


# --- after ----------------------------------------------------------------------------------


def _samples(job: GenerativeJob, model: nn.Module, seed: int) -> Tensor:
    """Return images of seeded latents, uint8 `[n, c, h, w]`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(_SAMPLES, *job.latent, generator=generator)
    low, high = job.out_range
    with torch.no_grad():
        raw = model(z) if job.task.task == "generator" else model.decode(z)  # type: ignore[operator]
    unit = ((main_output(raw).float() - low) / (high - low)).clamp(0, 1)
    return (unit.reshape(_SAMPLES, *job.image) * 255).round().to(torch.uint8)


def _describe(job: GenerativeJob) -> dict[str, dict[str, object]]:
    """Return the report sections `model` and `data`."""
    spec, data = job.loaded.spec, job.data
    return {
        "model": {
            "file": spec.file,
            "arch": spec.arch,
            "arch_args": dict(spec.arch_args),
            "notes": list(job.loaded.notes),
        },
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "n_train": len(data.train),
            "n_test": len(data.test),
            "input_shape": list(data.input_shape),
            "notes": [*data.notes, *job.notes],
        },
    }
