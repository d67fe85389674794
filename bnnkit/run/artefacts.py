"""Write a slim model in every form, prove that the forms agree, and time them."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.settle import Slimmed
from bnnkit.graph.structure import Structure
from bnnkit.io.export import Written, write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.rundir import MODEL_ONNX, MODEL_SAFETENSORS
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.run.latency.original import of_module, time_against_original
from bnnkit.run.progress import Progress
from bnnkit.run.verify import Check, require, verify_forms
from bnnkit.run.written_forms import RELOADED, Form, agree_within, write_forms
from bnnkit.spec import ModelSpec, Plan

__all__ = ["file_bytes", "gated_predictor", "speed", "write_and_check"]

_EXPORT = 1e-4


def write_and_check(
    folder: Path,
    slim: nn.Module,
    gated: Predictor,
    plan: Plan,
    inputs: Tensor,
    formats: Sequence[str],
    progress: Progress,
) -> tuple[list[Check], list[Written]]:
    """Write the slim model and compare every file with it, on real inputs.

    Args:
        folder: Where the files go.
        slim: The slim module on the CPU, in eval mode.
        gated: The model it was made from, its gates frozen.
        plan: What was removed.
        inputs: `[n, ...]` real inputs.
        formats: Forms besides safetensors: `pt2`, `onnx`.
        progress: Who is told.

    Raises:
        ArtefactError: A form cannot be written, or disagrees.
    """
    progress.start("writing and checking the slim model", 2 + len(formats))
    reference = open_predictor(slim, name="slim")
    checks = verify_forms(gated, {"gated = slim": reference}, inputs, tolerance=_EXPORT)
    progress.advance()
    forms = [
        Form("safetensors", partial(write_safetensors, slim, plan=plan), agree_within(RELOADED),
             _reloaded),
        Form("pt2", partial(write_pt2, slim, inputs[:2]), agree_within(_EXPORT)),
        Form("onnx", partial(write_onnx, slim, inputs[:2]), agree_within(_EXPORT)),
    ]  # fmt: skip
    found, written = write_forms(folder, reference, forms, formats, inputs, progress)
    checks += found
    progress.stop()
    require(checks)
    return checks, written


def _reloaded(path: Path) -> Predictor:
    """Open a safetensors file as its plan says."""
    return open_predictor(load_model(ModelSpec(file=str(path))).module, name="reloaded")


def gated_predictor(model: nn.Module, structure: Structure, theta: Tensor) -> Predictor:
    """Return the full-width model on the CPU with frozen gates attached."""
    gated = copy.deepcopy(model).cpu()
    attach(gated, structure, FixedGates(theta.cpu()))
    return open_predictor(gated, name="gated")


def exactness(slimmed: Slimmed) -> dict[str, Any]:
    """Return the report row of the float64 proof."""
    from bnnkit.graph.settle import EXACT

    check = Check("gated = slim (float64)", slimmed.worst, EXACT, "relative", slimmed.inputs, True)
    return asdict(check)


def file_bytes(model: nn.Module) -> int:
    """Return the size of a model's tensors as a safetensors file."""
    with tempfile.TemporaryDirectory() as folder:
        return write_safetensors(model, Path(folder) / MODEL_SAFETENSORS).bytes


def speed(
    original: nn.Module,
    slim: nn.Module,
    folder: Path,
    input_shape: tuple[int, ...],
    batches: Sequence[int],
    threads: Sequence[int],
    progress: Progress,
) -> list[dict[str, Any]]:
    """Time the original against the slim model: torch and onnxruntime, CPU and CUDA if present.

    Args:
        original: The untouched model, on the CPU.
        slim: The slim model, on the CPU.
        folder: The run directory with the slim model's files.
        input_shape: Shape of one input.
        batches: Batch sizes.
        threads: CPU thread counts.
        progress: Who is told.
    """
    progress.start("timing original against slim")
    rows = time_against_original(
        original,
        {"slim": of_module(slim)},
        ("slim", folder / MODEL_ONNX),
        input_shape,
        batches,
        threads,
        devices=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"],
    )
    progress.stop()
    return rows
