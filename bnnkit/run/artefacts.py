"""Write a slim model in every form, and prove that the forms agree."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.settle import Slimmed
from bnnkit.graph.structure import Structure
from bnnkit.io.export import Written, write_onnx, write_pt2, write_safetensors
from bnnkit.io.models import load_model
from bnnkit.io.rundir import MODEL_SAFETENSORS
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.run.progress import Progress
from bnnkit.run.verify import Check, require, verify_forms
from bnnkit.run.written_forms import RELOADED, Form, agree_within, write_forms
from bnnkit.spec import ModelSpec, Plan

__all__ = ["file_bytes", "gated_predictor", "write_and_check"]

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
