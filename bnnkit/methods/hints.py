r"""Hints: inside, too, the slim net learns to give what the original gives there.

At some places i, outputs of modules that both nets have, the slim net's activations h are drawn
towards the original's t (Romero et al. 2015, equation 3),

.. math:: \frac 1 I \sum_{i=1}^{I} \frac{\lVert h_i(x) - t_i(x) \rVert^2}
    {n_i \operatorname{Var} t_i(x)},

with n numbers at a place. FitNets put a regression between nets of different widths; the channels
of a slim net are channels of the original, so that these are compared as they are, the kept ones
of t with h. Divided by the variance every place counts alike, and the loss is the share of it that
is missed.

References:
    A. Romero et al., FitNets: Hints for thin deep nets, ICLR 2015.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.outputs import main_output

__all__ = ["Inside", "Place", "Watched", "hint_loss", "meeting_places", "watched"]


@dataclass(frozen=True, eq=False)
class Place:
    """An output that the slim net shares with the original.

    Args:
        name: The module whose output it is, in both nets.
        axis: Where the original has more channels.
        kept: Which of them the slim net has; None where it has all.
    """

    name: str
    axis: int = 1
    kept: Tensor | None = None

    def of(self, wanted: Tensor) -> Tensor:
        """Return the part of the original's output that the slim net has."""
        if self.kept is None:
            return wanted
        return wanted.index_select(self.axis, self.kept.to(wanted.device))


def hint_loss(
    places: Sequence[Place], found: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Tensor:
    """Return the mean over places of the share of the original's variance that is missed.

    Args:
        places: Where, one at least.
        found: What the slim net gave at each place, `[b, ...]`.
        wanted: What the original gave there.
    """
    missed = []
    for place, mine, other in zip(places, found, wanted, strict=True):
        target = place.of(other).float()
        scale = target.var(correction=0).clamp_min(torch.finfo(torch.float32).tiny)
        missed.append((mine.float() - target).square().mean() / scale)
    return torch.stack(missed).mean()


class Inside(NamedTuple):
    """What a watched module gives.

    Args:
        output: Its own output.
        seen: The outputs at the places.
    """

    output: Any
    seen: list[Tensor]


class Watched(nn.Module):
    """A module that hands out what some of its parts gave; see `watched`."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self._names = tuple(names)
        self._seen: dict[str, Tensor] = {}

    def note(self, name: str, _: nn.Module, __: Any, output: Tensor) -> None:  # noqa: ANN401
        """Keep an output: a forward hook."""
        self._seen[name] = output

    def forward(self, *args: Any, **kwargs: Any) -> Inside:  # noqa: ANN401
        """Run the module."""
        output = self.module(*args, **kwargs)
        return Inside(output, [self._seen.pop(name) for name in self._names])


@contextmanager
def watched(module: nn.Module, names: Sequence[str]) -> Iterator[Watched]:
    """Watch a module as long as the context lasts; its parameters and modes are its own.

    Args:
        module: Any module.
        names: Submodules that run once and give one tensor each.
    """
    outer = Watched(module, names)
    hooks = [
        module.get_submodule(name).register_forward_hook(partial(outer.note, name))
        for name in names
    ]
    try:
        yield outer
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def meeting_places(
    slim: nn.Module, original: nn.Module, kept: Mapping[tuple[str, int], Tensor], x: Tensor
) -> tuple[Place, ...]:
    """Return where the slim net can be compared with the original, in the order of the forward.

    Places are outputs of blocks (modules made of modules) that lost no channel, and of
    normalisations; in a net without any, of the layers with weights. Left out are what runs more
    than once, what gives no single tensor, the output of the net itself, and what tells nothing.

    Args:
        slim: The slim net.
        original: The net that it was made of, on the same device.
        kept: `{(tensor name, axis): indices}` of every axis that lost some, from
            `Structure.kept_indices`.
        x: A few inputs `[n, ...]`.
    """
    names = _candidates(original, slim)
    mine, theirs = _outputs(slim, names, x), _outputs(original, names, x)
    places, known = [], {theirs.pop("").data_ptr()}
    for name, wanted in theirs.items():
        if name not in mine or wanted.data_ptr() in known or not wanted.is_floating_point():
            continue
        place = _place(name, mine[name].shape, wanted.shape, kept.get((f"{name}.weight", 0)))
        if place is not None and float(place.of(wanted).var(correction=0)) > 0:
            known.add(wanted.data_ptr())
            places.append(place)
    return tuple(places)


def _place(name: str, mine: torch.Size, theirs: torch.Size, kept: Tensor | None) -> Place | None:
    """Return the place, if the shapes meet there."""
    if mine == theirs:
        return Place(name) if kept is None else None
    if kept is None or len(mine) != len(theirs):
        return None
    differ = [axis for axis, (m, t) in enumerate(zip(mine, theirs, strict=True)) if m != t]
    if len(differ) != 1 or mine[differ[0]] != len(kept):
        return None
    return Place(name, differ[0], kept)


def _candidates(original: nn.Module, slim: nn.Module) -> list[str]:
    """Name the blocks and the normalisations that both nets have, or else the layers."""
    both = {name for name, _ in slim.named_modules()} - {""}
    modules = [(name, module) for name, module in original.named_modules() if name in both]
    blocks = [name for name, module in modules if next(module.children(), None) is not None]
    weighted = [(name, getattr(module, "weight", None)) for name, module in modules]
    layers = [(name, w.dim()) for name, w in weighted if isinstance(w, Tensor)]
    norms = [name for name, dim in layers if dim == 1]
    return [*blocks, *(norms or [name for name, _ in layers])]


def _outputs(model: nn.Module, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """Return the tensors that modules give, in forward order; the whole net's under ''."""
    found: dict[str, Any] = {}
    runs: Counter[str] = Counter()

    def note(name: str, _: nn.Module, __: Any, output: Any) -> None:  # noqa: ANN401
        runs[name] += 1
        found[name] = output

    hooks = [model.get_submodule(n).register_forward_hook(partial(note, n)) for n in names]
    try:
        with preserved_modes(model):
            model.eval()
            found[""] = main_output(model(x))
    finally:
        for hook in hooks:
            hook.remove()
    return {n: t for n, t in found.items() if isinstance(t, Tensor) and runs[n] <= 1}
