"""A model as its owner names it, file and architecture, into a module with those weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnnkit.errors import ArchitectureError
from bnnkit.graph.rebuild import rebuild
from bnnkit.io.architectures import (
    accepts_argument,
    build_architecture,
    is_own_code,
    trust_key,
)
from bnnkit.io.checkpoint import Checkpoint, read_checkpoint
from bnnkit.io.matching import (
    KeyReport,
    align,
    class_count,
    fitting_architectures,
    match,
    shapes_of,
    share_tied,
)
from bnnkit.io.planned import complete, override, planned_spec
from bnnkit.io.trust import remember
from bnnkit.spec import ModelSpec, NoisePlan, Plan

__all__ = ["LoadedModel", "Noise", "load_model"]

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Noise:
    """The batch-norm noise of a file: its description, and its numbers.

    Args:
        plan: What varies and how.
        tensors: The buffers of the sampler, by name.
    """

    plan: NoisePlan
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A module with the weights that were asked for, in train mode on the CPU.

    Args:
        module: The module.
        spec: How it was named, with everything that was inferred: the architecture under an
            absolute path, its digest, its arguments, its input shape where known.
        notes: What was stripped, assumed or converted, one sentence each.
        keys: How the file's tensors met the module's names.
        plan: The rewrite that the file carried; the module is slim then.
        noise: The noise that the file carried; the module is the net without it.
    """

    module: nn.Module
    spec: ModelSpec
    notes: list[str] = field(default_factory=list)
    keys: KeyReport = field(default_factory=KeyReport)
    plan: Plan | None = None
    noise: Noise | None = None

    @property
    def full_plan(self) -> Plan | None:
        """The rewrite together with the noise, as a file of the stochastic net carries it."""
        if self.plan is None or self.noise is None:
            return self.plan
        return replace(self.plan, noise=self.noise.plan)

    @property
    def form(self) -> str:
        """Whether the owner's `modules` run, or the captured `graph` was rewritten."""
        return "modules" if self.plan is None else self.plan.form


def load_model(spec: ModelSpec, *, seed: int = 0, trust_store: Path | None = None) -> LoadedModel:
    """Load a model: fresh weights, a run directory, or tensors in an architecture.

    The architecture in `spec` is taken as the user's own word: its file or module is run, and
    remembered. One that comes from a file's plan is run only if it is remembered.

    Args:
        spec: What the user named; never the spec inside a plan.
        seed: Seed of fresh weights.
        trust_store: Where factories are remembered; None takes the user's own list.

    Raises:
        ArchitectureError: No architecture, one that cannot be built or is not trusted, or one
            that the tensors do not fit.
        FileRefusedError: The file cannot be read.
        StructureError: The file's plan does not fit the architecture.
    """
    if spec.file is None:
        spec, module = _build_named(spec, seed, trust_store)
        return LoadedModel(module, spec, [f"The weights are fresh, from seed {seed}."])
    checkpoint = read_checkpoint(
        spec.file,
        state_key=spec.state_key,
        trust_pickle=spec.trust_pickle,
        harvest=spec.arch is not None,
    )
    if checkpoint.plan is not None:
        return _load_planned(spec, checkpoint, checkpoint.plan, seed, trust_store)
    if spec.arch is None and checkpoint.module is not None:
        module = checkpoint.module.train()
        notes = [*checkpoint.notes, *_to_single(module)]
        return LoadedModel(module, spec, notes, KeyReport(tuple(shapes_of(module))))
    if spec.arch is None:
        raise _no_architecture(spec.file, checkpoint.tensors)
    return _load_tensors(spec, checkpoint, seed, trust_store)


def _build_named(spec: ModelSpec, seed: int, store: Path | None) -> tuple[ModelSpec, nn.Module]:
    """Build what the caller named, and remember code of the user's own."""
    if spec.arch is None:
        raise ArchitectureError(
            "Loading a model",
            "neither a file nor an architecture",
            "there is nothing to load",
            "Name a file, --arch, or both.",
        )
    spec = complete(spec)
    assert spec.arch is not None  # completed from one
    module = build_architecture(spec.arch, spec.arch_args, seed=seed)
    if is_own_code(spec.arch):
        remember(trust_key(spec.arch), spec.arch_digest, store=store)
    return spec, module


def _load_tensors(
    spec: ModelSpec, checkpoint: Checkpoint, seed: int, store: Path | None
) -> LoadedModel:
    """Put the tensors of a file into the architecture that the caller named."""
    spec, module = _build_named(spec, seed, store)
    assert spec.arch is not None  # it has been built
    notes = list(checkpoint.notes)
    tensors, renamed = align(checkpoint.tensors, shapes_of(module))
    tensors = share_tied(tensors, module)
    report = match(tensors, shapes_of(module))
    count = class_count(report)
    if count is not None and "num_classes" not in spec.arch_args:
        args = {**spec.arch_args, "num_classes": count}
        trial = _build_with_classes(spec.arch, args, seed)
        if trial is not None and (refit := match(tensors, shapes_of(trial))).fits:
            name, (theirs, _) = next(iter(report.shape_differing.items()))
            notes.append(f"The file says num_classes={count}: its {name} is {list(theirs)}.")
            spec, module, report = replace(spec, arch_args=args), trial, refit
    if not report.fits:
        raise _misfit(spec, report, _misfit_hint(report, checkpoint.tensors))
    if renamed is not None:
        notes.append(renamed)
    notes += _fill(module, tensors, report, spec)
    return LoadedModel(module, spec, notes, report)


def _build_with_classes(arch: str, args: Mapping[str, Any], seed: int) -> nn.Module | None:
    """Build with the number of classes of the file, where the factory lets that be chosen."""
    if not accepts_argument(arch, "num_classes"):
        return None
    try:
        return build_architecture(arch, args, seed=seed)
    except ArchitectureError:
        return None  # it hands its arguments on to something that does not take this one


def _load_planned(
    spec: ModelSpec, checkpoint: Checkpoint, plan: Plan, seed: int, store: Path | None
) -> LoadedModel:
    """Rebuild a slim model: its architecture, cut as the plan says, with the file's tensors."""
    notes = list(checkpoint.notes)
    if spec.arch is not None:
        spec, changed = override(spec, plan.model)
        notes += changed
        spec, module = _build_named(spec, seed, store)
    else:
        spec = planned_spec(spec, plan.model, store)
        assert spec.arch is not None  # checked on the line above
        module = build_architecture(spec.arch, spec.arch_args, seed=seed)
    module = rebuild(module, plan).train()
    tensors, _ = align(checkpoint.tensors, shapes_of(module))  # the reader strips prefixes
    report = match(tensors, shapes_of(module))
    if not report.fits:
        raise _misfit(
            spec, report, "Write the run again, or name what it was made from by --arch."
        )
    notes += _fill(module, tensors, report, spec)
    model = replace(
        plan.model, arch=spec.arch, arch_args=spec.arch_args, arch_digest=spec.arch_digest
    )
    noise = None if plan.noise is None else Noise(plan.noise, checkpoint.noise)
    return LoadedModel(module, spec, notes, report, replace(plan, model=model, noise=None), noise)


def _fill(
    module: nn.Module, tensors: Mapping[str, Tensor], report: KeyReport, spec: ModelSpec
) -> list[str]:
    """Copy matching tensors into a module; return what was converted or left as it was."""
    notes = _to_single(module)
    state = module.state_dict()
    for dtype in sorted({t.dtype for t in tensors.values() if t.is_floating_point()}, key=str):
        keys = [k for k in report.matched if tensors[k].dtype == dtype != state[k].dtype]
        if keys:
            notes.append(
                f"{len(keys)} tensors in {dtype} were converted to {state[keys[0]].dtype}."
            )
    if report.missing:
        notes.append(f"{len(report.missing)} batch counters are not in the file and start at 0.")
    try:
        module.load_state_dict({k: tensors[k] for k in report.matched}, strict=False)
    except RuntimeError as error:
        raise ArchitectureError(
            f"Loading {spec.file!r} into {spec.arch!r}",
            str(error).splitlines()[-1].strip(),
            "the module does not take its weights",
        ) from error
    return notes


def _to_single(module: nn.Module) -> list[str]:
    """Turn half-precision weights into float32, in which everything here computes."""
    floats = [*module.parameters(), *module.buffers()]
    halves = {str(t.dtype) for t in floats if t.dtype in _HALF}
    if not halves:
        return []
    module.float()
    return [
        f"the module's {' and '.join(sorted(halves))} weights were converted to torch.float32."
    ]


def _no_architecture(file: str, tensors: Mapping[str, Tensor]) -> ArchitectureError:
    """Say that weights alone are not a model, and which architecture they may be of."""
    first = ", ".join(f"{k} {list(v.shape)}" for k, v in list(tensors.items())[:3])
    fitting = fitting_architectures(tensors)
    hint = (
        "Name it with --arch torchvision:NAME, timm:NAME, bnnkit:NAME or path/to/file.py:factory."
    )
    if fitting:
        hint = f"They fit --arch {' or '.join(fitting)}."
    return ArchitectureError(
        f"Loading {file!r}",
        f"only tensors, {len(tensors)} of them: {first} ...",
        "weights alone do not say how they are connected",
        hint,
    )


def _misfit(spec: ModelSpec, report: KeyReport, hint: str) -> ArchitectureError:
    """Say how the tensors and the architecture differ."""
    return ArchitectureError(
        f"Loading {spec.file!r} into {spec.arch!r}",
        str(report),
        "every tensor must have its place",
        hint,
    )


def _misfit_hint(report: KeyReport, tensors: Mapping[str, Tensor]) -> str:
    """Look for the likely cause: classes, auxiliary heads, another architecture."""
    count = class_count(report)
    if count is not None:
        return f"Use --arch-arg num_classes={count} if the factory takes it."
    strange = [*report.missing, *report.unexpected]
    if strange and not report.shape_differing and all("aux" in k.lower() for k in strange):
        switch = "True" if report.unexpected else "False"
        return f"Auxiliary heads differ: use --arch-arg aux_logits={switch} if it takes that."
    fitting = fitting_architectures(tensors)
    if fitting:
        return f"The tensors fit --arch {' or '.join(fitting)}."
    return "Name the architecture that the file was saved from; --state-key picks another entry."
