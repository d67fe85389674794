"""Make the slim model in the form that is provably right, and prove it in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
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
        StructureError: The model cannot be copied, or does not run in float64.
    """
    double = _in_double(model)
    x = inputs.double()
    with attach(double, structure, FixedGates((theta * keep.to(theta)).double())):
        expected = _expected(double, x)
    failures = []
    for form in forms:
        try:
            slim = make_slim(double, structure, keep, theta.double(), form=form)
            worst = _difference(expected, _run(slim, x))
            if worst <= EXACT:
                _train_as(double, slim, x)
        except Exception as error:  # the owner's code may raise anything at widths it never saw
            failures.append(f"{form}: {type(error).__name__}: {_first_line(error)}")
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
    # Not the batch size of the analysis: a graph that holds that size must not pass.
    inputs = torch.randn(_TRIAL_INPUTS, *structure.input_shape, generator=generator)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        inputs = inputs.to(parameter.device)

    def survives(names: set[str]) -> bool:
        chosen = structure.without({n: _UNSAFE for n in everything - names})
        return _survives(model, chosen, inputs, generator)

    everything = {c.name for c in structure.classes}
    kept = _largest([c.name for c in structure.classes], set(), survives)
    return structure.without({name: _UNSAFE for name in everything - kept})


_UNSAFE = "a trial removal did not reproduce the gated model"
_TRIAL_INPUTS = 3


def _largest(names: list[str], base: set[str], survives: Callable[[set[str]], bool]) -> set[str]:
    """Return `base` with as many of `names` as survive together, by halving."""
    if not names or survives(base | set(names)):
        return base | set(names)
    if len(names) == 1:
        return base
    half = len(names) // 2
    return _largest(names[half:], _largest(names[:half], base, survives), survives)


def _survives(
    model: nn.Module, structure: Structure, inputs: Tensor, generator: torch.Generator
) -> bool:
    """Try a random half of the units, then the fewest that leave the model whole."""
    theta = torch.rand(structure.n_units, generator=generator) * 0.9 + 0.1
    half = torch.rand(structure.n_units, generator=generator) < 0.5
    for keep in (half, torch.zeros_like(half)) if structure.classes else ():
        keep, _ = structure.ensure_alive(keep, theta)
        on = inputs.device
        try:
            slim_exactly(model, structure, keep.to(on), theta.to(on), inputs)
        except (ArtefactError, StructureError):
            return False
    return True


def _in_double(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).double().eval()
    except Exception as error:  # tensors computed by hooks, handles of libraries
        raise StructureError(
            "Copying the model", f"{type(error).__name__}: {_first_line(error)}",
            "removal works on a copy", "Let copy.deepcopy(model) work.",
        ) from error  # fmt: skip


def _expected(gated: nn.Module, x: Tensor) -> Tensor:
    try:
        return _run(gated, x)
    except Exception as error:  # the owner's code may be tied to float32, or to a batch size
        raise StructureError(
            "Proving a removal", f"{type(error).__name__}: {_first_line(error)}",
            f"the model does not run in float64 on {len(x)} inputs",
            "Let its forward follow the dtype and the batch size of its input.",
        ) from error  # fmt: skip


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


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


def _train_as(original: nn.Module, slim: nn.Module, x: Tensor) -> None:
    """See that the slim model trains where the original does: some heads exist only there."""
    try:
        _train_step(slim, x)
    except Exception:
        try:
            _train_step(copy.deepcopy(original), x)
        except Exception:  # the owner's code does not train like this, at any width
            return
        raise


def _train_step(model: nn.Module, x: Tensor) -> None:
    model.train()
    loss = main_output(model(x)).sum()
    if loss.requires_grad:  # else every weight is frozen
        torch.autograd.backward(loss)
    model.zero_grad(set_to_none=True)
    model.eval()
