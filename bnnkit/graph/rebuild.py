"""Make the slim model: from a decision, or from a plan on a fresh build of the architecture."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError
from bnnkit.graph.analyse import analyse
from bnnkit.graph.fold import fold
from bnnkit.graph.remove import slice_tensors
from bnnkit.graph.rewrite import rewrite
from bnnkit.graph.structure import Structure
from bnnkit.spec import ClassPlan, ModelSpec, Plan

__all__ = ["make_plan", "make_slim", "rebuild"]


def make_plan(
    structure: Structure, keep: Tensor, theta: Tensor, model: ModelSpec, *, form: str, method: str
) -> Plan:
    """Write a decision down as data.

    Args:
        structure: The channel classes that were decided on.
        keep: `[units]` bool.
        theta: `[units]` frozen gates.
        model: The architecture that the plan belongs to.
        form: `modules` or `graph`.
        method: What decided.
    """
    classes = []
    for c in structure.classes:
        kept = keep[c.units].nonzero().reshape(-1).tolist()
        values = tuple(float(f"{float(t):.6g}") for t in theta[c.units][kept])
        classes.append(ClassPlan(c.name, c.size, tuple(kept), values))
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    for (name, axis), indices in structure.kept_indices(keep).items():
        slices.setdefault(name, {})[axis] = tuple(indices.tolist())
    return Plan(model=model, form=form, classes=tuple(classes), slices=slices, method=method)


def make_slim(
    model: nn.Module, structure: Structure, keep: Tensor, theta: Tensor, *, form: str
) -> nn.Module:
    """Return a slim copy of a model with the gates folded in; the model is untouched.

    Args:
        model: The analysed model at full width.
        structure: Its channel classes.
        keep: `[units]` bool.
        theta: `[units]` frozen gates.
        form: `modules` resizes the owner's modules; `graph` also rewrites the captured graph.
    """
    slim = copy.deepcopy(model)
    fold(slim, structure, theta * keep.to(theta))
    return _shrink(slim, structure, keep, form)


def rebuild(module: nn.Module, plan: Plan) -> nn.Module:
    """Apply a plan to a fresh build of its architecture; the weights are sliced, not folded.

    Args:
        module: The architecture at full width; consumed.
        plan: The rewrite.

    Raises:
        StructureError: The plan belongs to another architecture.
    """
    kept = {
        (name, axis): torch.tensor(indices)
        for name, axes in plan.slices.items()
        for axis, indices in axes.items()
    }
    if plan.form == "modules":
        slice_tensors(module, kept)
        return module
    if plan.form != "graph" or plan.model.input_shape is None:
        raise StructureError(
            "Replaying a plan", f"the form {plan.form!r}", "only 'modules' and 'graph' are known"
        )
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    structure = analyse(module, torch.zeros(2, *plan.model.input_shape, device=device))
    by_name = {c.name: c for c in plan.classes}
    keep = torch.ones(structure.n_units, dtype=torch.bool)
    for c in structure.classes:
        planned = by_name.pop(c.name, None)
        if planned is None:
            continue
        if planned.size != c.size:
            raise StructureError(
                "Replaying a plan", f"class {c.name!r} with {c.size} units",
                f"the plan has {planned.size}", "Check --arch and --arch-arg.",
            )  # fmt: skip
        keep[c.units] = False
        keep[c.first + torch.tensor(planned.kept, dtype=torch.long)] = True
    if by_name:
        raise StructureError(
            "Replaying a plan", f"the class {next(iter(by_name))!r}",
            "this architecture has no such class", "Check --arch and --arch-arg.",
        )  # fmt: skip
    return _shrink(module, structure, keep, "graph")


def _shrink(model: nn.Module, structure: Structure, keep: Tensor, form: str) -> nn.Module:
    if form == "graph":
        return rewrite(model, structure, keep)
    slice_tensors(model, structure.kept_indices(keep))
    return model
