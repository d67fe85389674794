"""Write a model in several forms, and prove each against the model on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bnnkit.io.export import Written
from bnnkit.io.rundir import MODEL_ONNX, MODEL_PT2, MODEL_SAFETENSORS
from bnnkit.io.runtimes import Predictor, open_predictor
from bnnkit.run.progress import Progress
from bnnkit.run.verify import Check, verify_forms

__all__ = ["RELOADED", "Form", "agree_within", "write_forms"]

RELOADED = 1e-6
"""Tolerance for the same module from its stored tensors."""

_FILES = {"safetensors": MODEL_SAFETENSORS, "pt2": MODEL_PT2, "onnx": MODEL_ONNX}

Verify = Callable[[str, Predictor, Predictor, Tensor], list[Check]]
"""From the check's name, the model, its file opened again and inputs `[n, ...]` to verdicts."""


@dataclass(frozen=True)
class Form:
    """One form of a model's file.

    Args:
        kind: `safetensors`, `pt2` or `onnx`.
        write: Writes it to a path.
        verify: Compares it with the model.
        open: Opens the file again.
    """

    kind: str
    write: Callable[[Path], Written]
    verify: Verify
    open: Callable[[Path], Predictor] = open_predictor


def agree_within(tolerance: float) -> Verify:
    """Return the comparison that asks for the same outputs, to a relative tolerance."""

    def verify(name: str, model: Predictor, opened: Predictor, inputs: Tensor) -> list[Check]:
        return verify_forms(model, {name: opened}, inputs, tolerance=tolerance)

    return verify


def write_forms(
    folder: Path,
    model: Predictor,
    forms: Sequence[Form],
    formats: Sequence[str],
    inputs: Tensor,
    progress: Progress,
) -> tuple[list[Check], list[Written]]:
    """Write a model in each form and compare every file with it, in this order.

    Args:
        folder: Where the files go.
        model: What every form should answer.
        forms: What can be written.
        formats: Kinds that are wanted besides safetensors.
        inputs: `[n, ...]` real inputs.
        progress: Told of each form that is done.

    Returns:
        The checks, `<model> = <form>`, and the files.

    Raises:
        ArtefactError: A form cannot be written, or does not run.
    """
    checks: list[Check] = []
    written: list[Written] = []
    for form in forms:
        if form.kind not in ("safetensors", *formats):
            continue
        written.append(form.write(folder / _FILES[form.kind]))
        opened = form.open(written[-1].path)
        checks += form.verify(f"{model.name} = {form.kind}", model, opened, inputs)
        progress.advance()
    return checks, written
