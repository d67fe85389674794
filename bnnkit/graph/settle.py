"""Make the slim model in the form that is provably right, and prove it in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnnkit.errors import ArtefactError, StructureError
from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.outputs import main_output
from bnnkit.graph.rebuild import make_slim
from bnnkit.graph.structure import Structure

__all__ = ["EXACT", "FORMS", "Slimmed", "settle", "slim_exactly"]

EXACT = 1e-9
"""Largest relative difference in float64 between the gated and the slim model."""

FORMS = ("modules", "graph")


@dataclass(frozen=True)
class Slimmed:
    """A slim model that was compared with the gated one.

    Args:
        model: The slim module, in the dtype of the original.
        form: `modules` or `graph`.
        worst: Largest relative difference in float64.
        inputs: Number of inputs that it was measured on.
    """

    model: nn.Module
    form: str
    worst: float
    inputs: int


def slim_exactly(
    model: nn.Module,
    structure: Structure,
    keep: Tensor,
    theta: Tensor,
    inputs: Tensor,
    *,
    forms: tuple[str, ...] = FORMS,
) -> Slimmed:
    """Remove closed units and prove in float64 that the function is the gated one.

    The owner's modules are resized first. Where their code holds sizes that do not follow, the
    captured graph is rewritten.

    Args:
        model: The analysed model at full width; untouched.
        structure: Its channel classes.
        keep: `[units]` bool.
        theta: `[units]` frozen gates.
        inputs: `[n, ...]` real inputs.
        forms: Forms to try, in order.

    Raises:
        ArtefactError: No form agrees with the gated model.
    """
    double = copy.deepcopy(model).double().eval()
    x = inputs.double()
    gated = copy.deepcopy(double)
    with attach(gated, structure, FixedGates((theta * keep.to(theta)).double())):
        expected = _run(gated, x)
    failures = []
    for form in forms:
        try:
            slim = make_slim(double, structure, keep, theta.double(), form=form)
            worst = _difference(expected, _run(slim, x))
            if worst <= EXACT:
                _train_step_runs(slim, x)
        except Exception as error:  # the owner's code may raise anything at widths it never saw
            failures.append(f"{form}: {type(error).__name__}: {str(error).splitlines()[0][:160]}")
            continue
        if worst <= EXACT:
            final = make_slim(model, structure, keep, theta, form=form)
            return Slimmed(final, form, worst, len(inputs))
        failures.append(f"{form}: relative difference {worst:.1e}")
    raise ArtefactError(
        "Removing closed channels",
        "; ".join(failures),
        f"the slim model must equal the gated one to {EXACT:.0e} in float64",
        "Lock the layers concerned with --exclude, and report the architecture.",
    )


def settle(model: nn.Module, structure: Structure, *, seed: int = 0) -> Structure:
    """Try the surgery on random decisions before anything is trained; lock what it breaks.

    Args:
        model: The analysed model; untouched.
        structure: Its channel classes.
        seed: Seed of the random decisions and inputs.

    Returns:
        The structure, with classes locked that no form can shrink exactly.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, *structure.input_shape, generator=generator)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        inputs = inputs.to(parameter.device)
    if _survives(model, structure, inputs, generator):
        return structure
    locked = []
    for c in structure.classes:
        others = {o.name: _UNSAFE for o in structure.classes if o is not c}
        alone = structure.without(others)
        if not _survives(model, alone, inputs, generator):
            locked.append(c)
    kept = structure.without({c.name: _UNSAFE for c in locked})
    if not _survives(model, kept, inputs, generator):
        return structure.without({c.name: _UNSAFE for c in structure.classes})
    return kept


_UNSAFE = "a trial removal did not reproduce the gated model"


def _survives(
    model: nn.Module, structure: Structure, inputs: Tensor, generator: torch.Generator
) -> bool:
    if not structure.classes:
        return True
    theta = torch.rand(structure.n_units, generator=generator) * 0.9 + 0.1
    keep = torch.rand(structure.n_units, generator=generator) < 0.5
    keep, _ = structure.ensure_alive(keep, theta)
    theta, keep = theta.to(inputs.device), keep.to(inputs.device)
    try:
        slim_exactly(model, structure, keep, theta, inputs)
    except (ArtefactError, StructureError):
        return False
    return True


def _run(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return main_output(model(x))


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return float("inf")
    scale = expected.abs().max().clamp(min=1e-30)
    worst = float((expected - got).abs().max() / scale)
    return worst if worst == worst else float("inf")


def _train_step_runs(model: nn.Module, x: Tensor) -> None:
    """Run a forward and a backward in train mode: auxiliary heads exist only there."""
    model.train()
    torch.autograd.backward(main_output(model(x)).sum())
    model.zero_grad(set_to_none=True)
    model.eval()
