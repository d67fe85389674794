"""`train`: a reference architecture on a named data set, or more epochs for a checkpoint.

A classifier is trained here; what makes images, in `train_generator`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.io.export import write_safetensors
from bnnkit.io.rundir import (
    METRICS,
    MODEL_SAFETENSORS,
    REPORT_HTML,
    run_directory,
    write_plan,
    write_report,
    write_text,
)
from bnnkit.io.runtimes import open_predictor
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.evaluate import check_outputs, classes_of, measure, predictions
from bnnkit.run.latency.section import torch_threads
from bnnkit.run.loop import Trainer
from bnnkit.run.precision import choose_device, choose_precision
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.reporting.html import render_html
from bnnkit.run.request import check_place, check_rebuildable
from bnnkit.run.setup import as_data_spec, as_model_spec, plan_of, set_up
from bnnkit.run.train_generator import generative_task, train_generative
from bnnkit.spec import DataSpec, ModelSpec, Report
from bnnkit.spec.config import TrainConfig

__all__ = ["default_config", "train"]

_GAN_RATE = 2e-4
"""Adam's rate for generator and discriminator (Radford et al. 2016)."""


def default_config(model: ModelSpec | str | Path, arch: str | None = None) -> TrainConfig:
    """Return the settings that a model is trained with where none are given.

    Args:
        model: The model.
        arch: The architecture, where `model` is only a file.

    Raises:
        BnnkitError: The file cannot be read.
    """
    task = generative_task(as_model_spec(model, arch))
    if task is not None and task.task == "generator":
        return TrainConfig(lr=_GAN_RATE)
    return TrainConfig()


def train(
    model: ModelSpec | str | Path,
    data: DataSpec | str,
    config: TrainConfig | None = None,
    *,
    arch: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Train fresh weights, or continue a checkpoint, and write a run directory.

    Args:
        model: The model; a specification without a file starts from fresh weights.
        data: The data.
        config: Epochs, rates and so on; None takes those of `default_config`.
        arch: The architecture, where `model` is only a file.
        out: The run directory; `<model stem>-train` in the working directory if None.
        resume: Continue an unfinished run in `out`.
        force: Replace what is in `out`.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Raises:
        BnnkitError: The model or the data cannot be used, or training diverged.
    """
    progress = progress or SilentProgress()
    started = datetime.now(UTC)
    spec = as_model_spec(model, arch)
    config = config or default_config(spec)
    out = Path(out or f"{Path(spec.file or (spec.arch or 'model').split(':')[-1]).stem}-train")
    task = generative_task(spec)
    if task is not None:
        return train_generative(
            spec,
            as_data_spec(data),
            task,
            config,
            out=out,
            resume=resume,
            force=force,
            progress=progress,
            argv=argv,
        )
    check_place(out, force=force)
    device = choose_device(config.device)
    bench = set_up(spec, as_data_spec(data), seed=config.seed)
    check_rebuildable(bench.spec, bench.module)
    check_outputs(classes_of(bench.module, bench.inputs(2)), bench.data.test)
    identity = {
        "model": bench.spec.file,
        "arch": bench.spec.arch,
        "arch_args": dict(bench.spec.arch_args),
        "code": bench.spec.arch_digest,
        "mean": list(bench.data.mean),
        "std": list(bench.data.std),
        "data": bench.data.fingerprint,
        **asdict(config),
    }
    checkpoints = Checkpoints(out, identity, resume=resume, force=force)
    precision = choose_precision(config.precision, device)
    module = precision.prepare(bench.module.to(device))
    trainer = Trainer(
        module,
        bench.data.train,
        config,
        precision,
        device,
        checkpoints=checkpoints,
        progress=progress,
        on_epoch=checkpoints.log,
    )
    with checkpoints.resumable(), torch_threads(config.threads):
        trainer.run(0, config.epochs)
    progress.start("measuring")
    found = predictions(open_predictor(module.eval(), device=str(device)), bench.data.test,
                        device=str(device))  # fmt: skip
    progress.stop()
    module.cpu()
    shape = tuple(bench.data.input_shape)
    # The plan removes nothing; it lets the run directory load without naming the architecture.
    plan = plan_of(bench.loaded, "train")
    with run_directory(out, force=True) as folder:
        weights = write_safetensors(module, folder / MODEL_SAFETENSORS, plan)
        write_plan(folder, plan)
        checkpoints.write_curve(folder / METRICS)
        sizes = {
            "parameters": count_parameters(module),
            "macs": count_macs(module, shape),
            "file_bytes": weights.bytes,
        }
        report = Report(
            "train",
            collect_provenance(argv, seed=config.seed, device=str(device), started=started),
            {
                "out": str(out),
                **bench.describe(),
                "method": {"name": "train", "config": asdict(config)},
                "slim": {**measure(found), **sizes},
                "curve": checkpoints.curve(),
            },
        )
        write_report(folder, report)
        write_text(folder / REPORT_HTML, render_html(report))
    return report
