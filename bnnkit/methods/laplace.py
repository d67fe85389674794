r"""Evidence without training: the matrix-normal Laplace posterior of the layers that read a unit.

With trained weights the posterior of each layer is taken as normal, with the Kronecker-factored
Fisher information as its precision (`bayes/kronecker_laplace.py`). What closing units costs is
read off it in nats, *after* all other weights of the layer have moved to their new posterior mean:
two channels that say the same cost next to nothing until the second goes. In each class the units
go in the greedy order, and the loss adds up along it.

The information is that of the model's own answers (labels are drawn from them), so no label of the
data is looked at. The factors of a convolution assume that gradients at different positions are
independent, which is far from true before a global pooling. The scale of each class is therefore
set by what can be had exactly: the Fisher information of its gates, E[(∂ log p / ∂θ_u)²].

References:
    Martens and Grosse 2015, "Optimizing neural networks with Kronecker-factored approximate
    curvature"; Grosse and Martens 2016 (convolutions, eq. 30); Ritter, Botev and Barber 2018, "A
    scalable Laplace approximation for neural networks".
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnnkit.bayes.kronecker_laplace import ColumnPosterior
from bnnkit.graph.patches import column_units, is_regression, outputs, patches, positions
from bnnkit.graph.structure import ChannelClass, Structure
from bnnkit.methods.select import losses_along
from bnnkit.methods.taylor import gate_gradients

__all__ = ["LaplaceEvidence"]

_POSITIONS = 64
"""Output positions of an input that A is taken from."""
_WIDEST = 6144
"""Columns of the widest layer whose posterior is inverted; wider ones go by their gates."""
_TOGETHER = 64
"""Units of a wide class go this share at a time, one in so many of what is left."""


class LaplaceEvidence:
    """Collects the factors of the Fisher information, and ranks units by what they cost.

    Args:
        model: The trained model at full width, on its device; it runs in eval mode.
        structure: The classes to rank.
        generator: Draws labels and positions, on the CPU.
    """

    def __init__(self, model: nn.Module, structure: Structure, generator: torch.Generator) -> None:
        self._model, self._structure, self._generator = model, structure, generator
        self._layers = {
            name: cast(nn.Linear, layer)
            for name in structure.reads
            if is_regression(layer := model.get_submodule(name))
            and cast(Tensor, layer.weight)[0].numel() <= _WIDEST
        }
        self._inputs: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._fisher = torch.zeros(structure.n_units, dtype=torch.float64)
        self._examples = 0

    def accumulate(self, x: Tensor) -> None:
        """Add a batch of inputs `[b, ...]`, on the model's device."""
        with contextlib.ExitStack() as stack:
            for name, layer in self._layers.items():
                hook = layer.register_forward_hook(self._watch(name), with_kwargs=True)
                stack.callback(hook.remove)
            found = gate_gradients(self._model, self._structure, x, self._draw)
        self._fisher += found.double().square().sum(0).cpu()
        self._examples += len(x)

    def costs(self) -> Tensor:
        """Return `[units]` the rise of the loss, in nats, once a unit and all before it are gone.

        The order is that of the values, within each class.
        """
        out = torch.zeros(self._structure.n_units, dtype=torch.float64)
        for c in self._structure.classes:
            out[c.units] = self._costs_of(c)
        return out.float()

    # --- collecting -------------------------------------------------------------------------

    def _draw(self, scores: Tensor) -> Tensor:
        chances = scores.softmax(1).cpu()
        drawn = torch.multinomial(chances, 1, generator=self._generator)[:, 0]
        return drawn.to(scores.device)

    def _watch(self, name: str) -> Any:  # noqa: ANN401 - a hook
        layer = self._layers[name]

        def hook(
            _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], y: Tensor
        ) -> None:
            x = args[0] if args else kwargs["input"]
            count = positions(y, layer)
            at = torch.randperm(count, generator=self._generator)[:_POSITIONS]
            a = patches(x.detach(), layer, at.to(y.device)).flatten(0, 1)
            a = torch.cat([a, torch.ones_like(a[:, :1])], 1)  # a shift takes over as well
            _add(self._inputs, name, (a.T @ a) * (count / len(at)))
            if y.requires_grad:
                y.register_hook(backward)  # type: ignore[no-untyped-call]

        def backward(gradient: Tensor) -> None:
            g = outputs(gradient, layer)
            _add(self._gradients, name, torch.einsum("bso,bsp->op", g, g) / g.shape[1])

        return hook

    # --- ranking ----------------------------------------------------------------------------

    def _costs_of(self, c: ChannelClass) -> Tensor:
        """Return `[size]` what has been lost when each unit of a class goes."""
        exact = 0.5 * self._fisher[c.units] / max(self._examples, 1)
        if not float(exact.sum()) > 0 and any(self._has_run(name) for name in c.readers):
            return torch.full_like(exact, math.inf)  # read, but no gradient tells how much
        posteriors = [self._posterior(name, c) for name in c.readers]
        if any(p is None for p in posteriors):
            return _by_gates(exact)
        known = [p for p in posteriors if p is not None]
        alone = torch.stack([self._alone(name, c) for name in c.readers]).sum(0)
        scale = float(exact.sum() / alone.sum().clamp(min=1e-300))
        if not 0 < scale < math.inf:
            return _by_gates(exact)
        cost, left, lost = torch.zeros(c.size, dtype=torch.float64), torch.arange(c.size), 0.0
        while len(left):
            rises = torch.stack([p.losses(left) for p in known]).sum(0).clamp(min=0)
            order = rises.argsort(stable=True)[: math.ceil(len(left) / _TOGETHER)]
            units = left[order]
            together = max(0.0, sum(p.remove(units) for p in known))
            share = rises[order].cumsum(0) / rises[order].sum().clamp(min=1e-300)
            cost[units] = scale * (lost + together * share)
            lost += together
            left = left[~torch.isin(left, units)]
        return cost

    def _has_run(self, name: str) -> bool:
        """Tell whether a reader was seen at work; an auxiliary head works in train mode only."""
        return name in self._inputs and bool(self._inputs[name].diagonal()[:-1].any())

    def _posterior(self, name: str, c: ChannelClass) -> ColumnPosterior | None:
        """Return the posterior of a reader, grouped by the units of a class; None if unknown."""
        groups = self._groups(name, c)
        if groups is None or name not in self._gradients:
            return None
        weight = self._layers[name].weight.detach().flatten(1).double().cpu()
        weight = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)
        return ColumnPosterior(weight, *self._factors(name), groups)

    def _alone(self, name: str, c: ChannelClass) -> Tensor:
        """Return `[size]` the rise for each unit if nothing else moves."""
        inputs, gradients = self._factors(name)
        columns = cast(Tensor, self._groups(name, c))
        weight = self._layers[name].weight.detach().flatten(1).double().cpu()
        w = weight[:, columns].transpose(0, 1)  # [size, out, m]
        a = inputs[columns[:, :, None], columns[:, None, :]]
        return 0.5 * ((gradients @ w) * (w @ a)).sum((1, 2))

    def _factors(self, name: str) -> tuple[Tensor, Tensor]:
        n = self._examples
        return self._inputs[name] / n, self._gradients[name] / n

    def _groups(self, name: str, c: ChannelClass) -> Tensor | None:
        """Return `[size, m]` the columns of each unit; None where they have not equally many."""
        if name not in self._layers:
            return None
        units = column_units(self._layers[name], self._structure.reads[name])
        inside = ((units >= c.first) & (units < c.units.stop)).nonzero().reshape(-1)
        counts = torch.bincount(units[inside] - c.first, minlength=c.size)
        if not bool((counts == counts[0]).all()):
            return None
        grouped: Tensor = inside[units[inside].argsort(stable=True)]
        return grouped.reshape(c.size, -1)


def _by_gates(rise: Tensor) -> Tensor:
    """Return the same from the rise of each unit alone, `[size]`."""
    order = rise.argsort(stable=True)
    cost = torch.zeros_like(rise)
    cost[order] = losses_along(rise[order], rise.sum())
    return cost


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums.get(name, torch.zeros(())) + value.double().cpu()
