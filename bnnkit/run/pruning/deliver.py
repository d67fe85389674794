"""The end of a run: the slim model proved, written, measured and timed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from bnnkit.graph.count import count_macs, count_parameters
from bnnkit.graph.scatter import write_back
from bnnkit.graph.settle import slim_exactly
from bnnkit.io.rundir import METRICS, MODEL_ONNX, MODEL_SAFETENSORS, write_plan
from bnnkit.methods import RANKINGS
from bnnkit.run.artefacts import exactness, file_bytes, gated_predictor, write_and_check
from bnnkit.run.checkpoints import Checkpoints
from bnnkit.run.describe import class_rows, layer_rows, locked_rows
from bnnkit.run.evaluate import Predictions, compare, measure
from bnnkit.run.evaluation import size_ratios
from bnnkit.run.latency.original import of_module, time_against_original
from bnnkit.run.pruning.job import Job
from bnnkit.run.pruning.stage import Stage
from bnnkit.run.verify import proof_size
from bnnkit.spec import Report

__all__ = ["deliver"]


def deliver(
    job: Job, stage: Stage, before: Predictions, folder: Path, checkpoints: Checkpoints
) -> Report:
    """Remove, prove, write, measure and time; anything that disagrees ends the run.

    Args:
        job: The run.
        stage: What was learned.
        before: What the original says of the test part.
        folder: The run directory.
        checkpoints: Where the training curve is.

    Raises:
        ArtefactError: A form cannot be written, or disagrees with the model it was made from.
    """
    config, shape = job.config, tuple(job.bench.data.input_shape)
    inputs = job.bench.inputs(proof_size(shape), config.train.seed)
    job.progress.start("proving the slim model in float64")
    full, gates = _at_full_width(job, stage), stage.keep.float()
    slimmed = slim_exactly(full, job.structure, stage.keep, gates, inputs)
    job.progress.stop()
    slim = slimmed.model.eval()
    plan = job.plan(stage.keep, stage.theta, slimmed.form)
    checks, written = write_and_check(
        folder,
        slim,
        gated_predictor(full, job.structure, gates),
        plan,
        inputs,
        config.formats,
        job.progress,
    )
    write_plan(folder, plan)
    checkpoints.write_curve(folder / METRICS)
    job.notes += [note for w in written for note in w.notes]
    job.notes += [f"class {n} closed whole; its best unit was kept" for n in stage.reopened]
    job.notes += _advice(job, stage, before)
    if slimmed.form == "graph":
        job.notes.append(
            "the model's code holds sizes that do not follow: its graph was rewritten"
        )
    after = job.predict(slim, job.bench.data.test, "measuring the slim model")
    latency = time_against_original(
        job.original, {"slim": of_module(slim)}, ("slim", folder / MODEL_ONNX), shape,
        config.batches, config.threads, job.progress, against="slim", devices=_devices(),
    )  # fmt: skip
    delivered = next(w.bytes for w in written if w.path.name == MODEL_SAFETENSORS)
    sizes = {
        "original": _sizes(job.original, shape, file_bytes(job.original)),
        "slim": _sizes(slim, shape, delivered),  # with its plan
    }
    return job.report(
        {
            "original": {**measure(before), **sizes["original"]},
            "slim": {**measure(after), **sizes["slim"]},
            "paired": compare(before, after),
            "ratios": size_ratios(sizes["original"], sizes["slim"]),
            "latency": latency,
            "classes": class_rows(job.structure, stage.keep, stage.evidence, stage.theta),
            "locked": locked_rows(job.structure),
            "layers": layer_rows(job.original, slim, shape),
            "refitted": [asdict(refit) for refit in stage.refits],
            "checks": [exactness(slimmed), *(asdict(c) for c in checks)],
            "curve": checkpoints.curve(),
        }
    )


def _devices() -> list[str]:
    """Return where models are timed."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _at_full_width(job: Job, stage: Stage) -> nn.Module:
    """Return what was learned at the original's width; its closed units are still to be gated."""
    full = copy.deepcopy(job.original)
    write_back(full, stage.model, job.structure.kept_indices(stage.keep))
    return full


def _advice(job: Job, stage: Stage, before: Predictions) -> list[str]:
    """Return what somebody who sees these figures should know."""
    out = []
    chance = 100 * (1 - 1 / before.log_probs.shape[1])
    error = measure(before)["error"].value
    if error > 0.8 * chance:
        out.append(
            f"the original itself has {error:.1f} % error, near chance: are the weights, "
            "--normalize, --mean and --std right?"
        )
    closed, config = int((~stage.keep).sum()), job.config
    learned = config.removal_seed is None and config.train.epochs > 0
    aimed = bool(config.target) or config.method in RANKINGS
    if learned and not aimed and closed < 0.05 * len(stage.keep):
        out.append(
            f"the evidence closed {closed} of {len(stage.keep)} units: a compact net gives "
            f"little away in {config.train.epochs} epochs; train longer, aim with --target-macs "
            f"0.5, or weigh the KL with --kl-scale {10 * max(1.0, config.sbp.kl_scale):g}"
        )
    return out


def _sizes(model: nn.Module, shape: Sequence[int], size: int) -> dict[str, int]:
    return {
        "parameters": count_parameters(model),
        "macs": count_macs(model, tuple(shape)),
        "file_bytes": size,
    }
