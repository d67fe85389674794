"""`inspect`: what a file is, what of a model can be removed, what is locked and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bnnkit.errors import UsageError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.settle import settle
from bnnkit.io.architectures import is_own_code
from bnnkit.io.contents import file_contents
from bnnkit.io.models import load_model
from bnnkit.run.describe import structure_sections
from bnnkit.run.progress import Progress, SilentProgress
from bnnkit.run.provenance import collect_provenance
from bnnkit.run.setup import as_model_spec, known_input_shape
from bnnkit.spec import ModelSpec, Plan, Report

__all__ = ["inspect"]

_IMAGENET = (3, 224, 224)


def inspect(
    model: ModelSpec | str | Path,
    *,
    arch: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    argv: Sequence[str] = (),
) -> Report:
    """Say what a file is, without executing it, and what of its model can be removed.

    The structure is shown where an architecture is named, or where the file carries a plan for
    one of a library: code of the plan's own is never run.

    Args:
        model: A file, an architecture for fresh weights, or both.
        arch: The architecture, where `model` is only a file.
        seed: Seed of fresh weights.
        progress: Who is told what goes on.
        argv: The command line, for the report.

    Returns:
        A report with the sections `model`, `file` (where there is one) and, with a structure,
        `input_shape`, `classes`, `locked`, `layers` and `removable`.

    Raises:
        UsageError: There is neither a file nor an architecture, or no input shape is known.
        BnnkitError: The file cannot be read, or the model cannot be loaded or followed.
    """
    started = datetime.now(UTC)
    spec = as_model_spec(model, arch)
    if spec.file is None and spec.arch is None:
        raise UsageError(
            "Inspecting a model", "neither a file nor --arch", "there is nothing to look at",
            "Name a file, or an architecture such as --arch torchvision:resnet18.",
        )  # fmt: skip
    sections: dict[str, Any] = {"model": {"file": spec.file, "arch": spec.arch, "notes": []}}
    plan = None
    if spec.file is not None:
        sections["file"], plan = file_contents(spec.file)
    if spec.arch is not None or _runnable(plan):
        sections.update(_structure(spec, seed, progress or SilentProgress()))
    provenance = collect_provenance(argv, seed=seed, started=started)
    return Report("inspect", provenance, sections)


def _runnable(plan: Plan | None) -> bool:
    """Tell whether a plan's architecture comes from a library."""
    return plan is not None and plan.model.arch is not None and not is_own_code(plan.model.arch)


def _structure(spec: ModelSpec, seed: int, progress: Progress) -> dict[str, Any]:
    """Load the model and follow its channels."""
    loaded = load_model(spec, seed=seed)
    shape = _input_shape(loaded.spec)
    generator = torch.Generator().manual_seed(seed)
    example = torch.randn(2, *shape, generator=generator)
    progress.start("finding channel classes")
    structure = settle(loaded.module, analyse(loaded.module, example))
    sections = structure_sections(loaded.module, structure)
    progress.stop()
    notes = [*loaded.notes, *([structure.note] if structure.note else [])]
    named = replace(loaded.spec, input_shape=shape)
    model = {"file": named.file, "arch": named.arch, "notes": notes}
    return {"model": model, "input_shape": list(shape), **sections}


def _input_shape(spec: ModelSpec) -> tuple[int, ...]:
    """Return the input shape that is stated, known to the zoo, or usual for the provider."""
    shape = known_input_shape(spec)
    if shape is not None:
        return shape
    if (spec.arch or "").partition(":")[0] in ("torchvision", "timm"):
        return _IMAGENET
    raise UsageError(
        "Following the channels", f"the architecture {spec.arch!r} without an input shape",
        "the model has to be run once", "Pass --input-shape, such as --input-shape 3,32,32.",
    )  # fmt: skip
