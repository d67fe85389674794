"""The architecture that a plan names, and whether its code may run on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bnnkit.errors import ArchitectureError
from bnnkit.io.architectures import (
    absolute_architecture,
    arch_digest,
    default_input_shape,
    is_own_code,
    trust_key,
)
from bnnkit.io.trust import is_trusted
from bnnkit.spec import ModelSpec

__all__ = ["complete", "override", "planned_spec"]


def complete(spec: ModelSpec) -> ModelSpec:
    """Fill in what follows from the architecture: absolute path, digest, the zoo's input shape."""
    assert spec.arch is not None  # callers have one
    return replace(
        spec,
        arch=absolute_architecture(spec.arch),
        arch_args=dict(spec.arch_args),
        arch_digest=arch_digest(spec.arch),
        input_shape=spec.input_shape or default_input_shape(spec.arch, spec.arch_args),
    )


def override(spec: ModelSpec, planned: ModelSpec) -> tuple[ModelSpec, list[str]]:
    """Take the caller's architecture in place of the plan's, with the plan's arguments for it.

    Args:
        spec: What the caller named, with an architecture.
        planned: What the plan names.

    Returns:
        The caller's spec, and a note where its source is not the one of the plan.
    """
    assert spec.arch is not None  # callers have one
    # a file that was moved keeps the name of its factory
    same = str(planned.arch).rpartition(":")[2] == spec.arch.rpartition(":")[2]
    args = {**(planned.arch_args if same else {}), **spec.arch_args}
    shape = spec.input_shape or planned.input_shape
    digest, notes = arch_digest(spec.arch), []
    if planned.arch_digest is not None and digest != planned.arch_digest:
        notes = [f"The source of {spec.arch} is not the one that the plan was written for."]
    return replace(spec, arch_args=args, input_shape=shape), notes


def planned_spec(spec: ModelSpec, planned: ModelSpec, store: Path | None) -> ModelSpec:
    """Take the plan's architecture, after asking whether its code may run here.

    Args:
        spec: What the caller named, without an architecture.
        planned: What the plan names; it may come from a stranger.
        store: Where factories are remembered.

    Raises:
        ArchitectureError: There is none, its source changed, or nobody named it on this machine.
    """
    what = f"Loading {spec.file!r}"
    if not isinstance(planned.arch, str) or not isinstance(planned.arch_args, Mapping):
        raise ArchitectureError(
            what,
            f"a plan with the architecture {planned.arch!r}",
            "there is nothing to apply it to",
            "Name the architecture with --arch.",
        )
    merged = replace(
        spec,
        arch=planned.arch,
        arch_args={**planned.arch_args, **spec.arch_args},
        input_shape=spec.input_shape or planned.input_shape,
    )
    completed = complete(merged)
    if not is_own_code(planned.arch):
        return completed
    digest = completed.arch_digest
    if planned.arch_digest is not None and digest != planned.arch_digest:
        state = f"has the sha256 {digest}" if digest else "is not there"
        raise ArchitectureError(
            what,
            f"the source of {planned.arch!r} {state}",
            f"its plan was written for the sha256 {planned.arch_digest}",
            "Restore that source, or name the one to use with --arch.",
        )
    if not is_trusted(trust_key(planned.arch), digest, store=store):
        raise ArchitectureError(
            what,
            f"its plan wants to run {planned.arch!r}",
            "that code comes with the file, and nobody named it on this machine",
            f"Read it, and pass --arch {planned.arch} if you trust it.",
        )
    return completed
