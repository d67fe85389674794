r"""What is left of a net takes over from what went: least squares, layer by layer.

Closing units takes columns away from the layers that read them, and disturbs what all later layers
get. With the kept columns A of the patches that a layer gets *in the pruned net*, and its outputs
Y *in the net before*, the weights that are left are set to

.. math:: \hat W = \arg\min_W \; \lVert Y - W A \rVert^2 + \lambda \lVert W - W_0 \rVert^2,

in forward order, so that each layer corrects what the layers before it got wrong (He, Zhang and
Sun 2017, section 3.3, for the readers of closed channels; here for every layer from there on). It
is the posterior mean of a linear regression with a normal prior around the weights that there
were; its precision λ is the one that predicts best for inputs that were held back, and a layer
that none makes better stays as it is. No label and no gradient is needed.

Where a branch ends in a sum x + f(x), the pruned net's x is off as well; the branch is then fitted
to Y + (x - x') (same paper, section 3.4).

Batch norm: y = γ (W a - m) / sd + β is fitted as one affine map. Its parts are chosen such that
each filter keeps its norm and the statistics are those of its new outputs, so that the net
computes in train mode what it computes in eval mode, and learns at the rate that it learned at.

References:
    Y. He, X. Zhang and J. Sun, Channel pruning for accelerating very deep neural networks, ICCV
    2017.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.patches import column_units, is_regression
from bnnkit.graph.structure import UNGATED, Structure
from bnnkit.methods.branches import Branch, Seen, find_branches, observe

__all__ = ["Refit", "reconstruct", "refittable"]

_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
"""λ as shares of the mean square of a column of A."""
_EACH = 4
"""Every fourth input is held back, to choose λ by."""
_LEAST = 16
"""Inputs without which nothing is refitted: too few are held back to tell good from bad."""
_POSITIONS = 24
"""Output positions that are looked at in each input: neighbours say much the same."""
_ROUNDING = 1e-6
"""Share of the power of outputs below which their variance is rounding of float32."""
_WIDEST = 8192
"""Columns of the largest system that is solved; its matrix takes half a gigabyte."""


@dataclass(frozen=True)
class Refit:
    """What came of one layer.

    Args:
        layer: Its name.
        before: Share of the variance of its outputs that was lost with its inputs.
        after: Share that is lost now. Both on inputs that were held back.
    """

    layer: str
    before: float
    after: float


def reconstruct(
    model: nn.Module,
    structure: Structure,
    keep: Tensor,
    gate: Tensor,
    batches: Sequence[Tensor],
    generator: torch.Generator,
) -> Iterator[Refit]:
    """Refit the layers whose inputs changed with the closed units, in place and in forward order.

    Args:
        model: The model at full width, on its device; its closed units are still to be removed.
        structure: Its channel classes.
        keep: `[units]` bool.
        gate: `[units]` multipliers of the units that are kept.
        batches: Inputs, each `[n, ...]`, on the device.
        generator: Chooses positions, on the CPU.

    Yields:
        What came of each layer that runs once, when it is done; two zeros where nothing changed.
    """
    before = copy.deepcopy(model)
    device = batches[0].device
    full, left = (gates.to(device) for gates in (gate, gate * keep.to(gate)))
    with (
        preserved_modes(model),
        attach(before, structure, FixedGates(full)),
        attach(model, structure, FixedGates(left)),
    ):
        before.eval(), model.eval()
        branches = find_branches(before, refittable(model), batches[0][:2])
        some = _some(generator)
        wanted = [observe(before, branches, x, some, inputs=False) for x in batches]
        for branch in branches:
            columns = _open_columns(model, structure, keep, branch.layer).to(device)
            pairs = zip(batches, (seen.pop(branch.layer) for seen in wanted), strict=True)
            moments = _moments(model, branch, columns, pairs)
            yield (
                Refit(branch.layer, 0.0, 0.0)
                if moments is None
                else _refit(model, branch, columns, *moments)
            )


def refittable(model: nn.Module) -> list[str]:
    """Name the layers that can be refitted: with one product, a weight of their own, not huge."""
    owners = Counter(
        id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
    )
    return [
        name
        for name, layer in model.named_modules()
        if is_regression(layer)
        and owners[id(layer.weight)] == 1
        and cast(Tensor, layer.weight)[0].numel() <= _WIDEST
    ]


def _some(generator: torch.Generator) -> Callable[[Branch, int], Tensor]:
    """Return how positions are chosen at random."""
    return lambda _, count: torch.randperm(count, generator=generator)[:_POSITIONS]


def _open_columns(model: nn.Module, structure: Structure, keep: Tensor, name: str) -> Tensor:
    """Return which columns of a layer's weight matrix read what is left, as indices."""
    layer = model.get_submodule(name)
    if name not in structure.reads:
        return torch.arange(cast(Tensor, layer.weight)[0].numel())
    units = column_units(layer, structure.reads[name])
    return ((units == UNGATED) | keep.cpu()[units.clamp(min=0)]).nonzero().reshape(-1)


def _moments(
    model: nn.Module, branch: Branch, columns: Tensor, pairs: Iterable[tuple[Tensor, Seen]]
) -> tuple[_Moments, _Moments] | None:
    """Return the moments to fit by and those to check by; None where nothing has changed."""
    fit, check, images = _Moments(), _Moments(), 0
    for x, was in pairs:
        (now,) = observe(model, [branch], x, lambda *_, at=was.at: at).values()
        assert now.a is not None
        if not images and torch.equal(was.sums, now.sums):
            return None
        target = was.y
        if was.other is not None and now.other is not None:
            target = target + (was.other - now.other)
        image = images + torch.arange(len(now.a), device=x.device) // len(was.at)
        images += len(now.a) // len(was.at)
        for moments, rows in ((fit, image % _EACH != 0), (check, image % _EACH == 0)):
            moments.add(now.a[rows][:, columns], target[rows])
    return (fit, check) if images >= _LEAST else None


@torch.no_grad()
def _refit(
    model: nn.Module, branch: Branch, columns: Tensor, fit: _Moments, check: _Moments
) -> Refit:
    """Solve the least squares of one layer and write its weights."""
    layer = cast(nn.Linear, model.get_submodule(branch.layer))
    norm = None if branch.norm is None else cast(nn.BatchNorm2d, model.get_submodule(branch.norm))
    intercept = norm is not None or layer.bias is not None
    start = _affine_map(layer, norm, columns)
    lost = {ridge: check.lost(fit.ridge(start, ridge, intercept=intercept)) for ridge in _RIDGES}
    best, before = min(_RIDGES, key=lambda ridge: lost[ridge]), check.lost(start)
    if not lost[best] < before:
        return Refit(branch.layer, before, before)
    both = fit.joined(check)
    _write(layer, norm, columns, both.ridge(start, best, intercept=intercept), both)
    return Refit(branch.layer, before, lost[best])


class _Moments:
    """Second moments of a regression, in float64; the last column of A is one."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._rows = 0

    def add(self, a: Tensor, y: Tensor) -> None:
        """Add rows `[n, columns]` and what should come out of them, `[n, out]`."""
        a = torch.cat([a, torch.ones_like(a[:, :1])], 1)
        parts = [part.double() for part in (a.T @ a, y.T @ a, y.square().sum(0))]
        sums = self._sums or [torch.zeros_like(part) for part in parts]
        self._sums = [s + p for s, p in zip(sums, parts, strict=True)]
        self._rows += len(a)

    def joined(self, other: _Moments) -> _Moments:
        """Return the moments of both sets of rows."""
        out = _Moments()
        out._sums = [s + p for s, p in zip(self._sums, other._sums, strict=True)]
        out._rows = self._rows + other._rows
        return out

    @property
    def gram(self) -> Tensor:
        """The mean of a aᵀ, `[columns + 1, columns + 1]`."""
        return self._sums[0] / self._rows

    @property
    def cross(self) -> Tensor:
        """The mean of y aᵀ, `[out, columns + 1]`."""
        return self._sums[1] / self._rows

    @property
    def power(self) -> Tensor:
        """The mean of y², `[out]`."""
        return self._sums[2] / self._rows

    def ridge(self, start: Tensor, ridge: float, *, intercept: bool) -> Tensor:
        """Return the affine map `[out, columns + 1]` that fits best, drawn to where it starts."""
        gram, size = self.gram, len(self.gram) - (not intercept)
        wrong = (self.cross - start @ gram)[:, :size]
        weights = gram.diagonal()[:-1]
        weights += (ridge * weights.mean()).clamp(min=1e-12)
        gram = gram[:size, :size]
        fitted = start.clone()
        fitted[:, :size] += torch.linalg.solve(gram, wrong.T).T
        return fitted

    def lost(self, fitted: Tensor) -> float:
        """Return the share of the variance of y that a map leaves."""
        left = self.power - 2 * (fitted * self.cross).sum(1) + (fitted @ self.gram * fitted).sum(1)
        power = self.power.sum()
        variance = (power - self.cross[:, -1].square().sum()).clamp(min=_ROUNDING * float(power))
        return float(left.sum().clamp(min=0) / variance.clamp(min=1e-30))

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of W a, each `[out]`, for a weight `[out, columns]`."""
        gram = self.gram
        mean = gram[-1, :-1]
        covariance = gram[:-1, :-1] - torch.outer(mean, mean)
        return weight @ mean, (weight @ covariance * weight).sum(1).clamp(min=0)


def _affine_map(layer: nn.Linear, norm: nn.BatchNorm2d | None, columns: Tensor) -> Tensor:
    """Return what a layer and its norm do in eval mode, as `[out, columns + 1]`."""
    weight = layer.weight.flatten(1)[:, columns].double()
    shift = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias.double()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = slope[:, None] * weight
        shift = norm.bias.double() + slope * (shift - norm.running_mean.double())
    return torch.cat([weight, shift[:, None]], 1)


def _write(
    layer: nn.Linear, norm: nn.BatchNorm2d | None, columns: Tensor, fitted: Tensor, seen: _Moments
) -> None:
    """Let a layer and its norm compute an affine map."""
    weight, shift = fitted[:, :-1], fitted[:, -1]
    own = layer.weight.flatten(1)
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        slope = weight.norm(dim=1) / own[:, columns].double().norm(dim=1)
        slope = torch.where(slope.isfinite() & (slope > 0), slope, torch.ones_like(slope))
        weight = weight / slope[:, None]
        mean, variance = seen.outputs(weight)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + slope * mean)
        norm.running_mean.copy_(mean if layer.bias is None else mean + layer.bias.double())
        norm.running_var.copy_(variance)
    elif layer.bias is not None:
        layer.bias.copy_(shift)
    own = own.clone()
    own[:, columns] = weight.to(own.dtype)
    layer.weight.copy_(own.view_as(layer.weight))
