r"""What is left of a layer's inputs takes over from what went: least squares, layer by layer.

Closing units takes columns away from the layers that read them. With the kept columns A of the
patches that a layer gets *in the pruned net*, and its outputs Y *in the net before*, the weights
that are left are set to

.. math:: \hat W = \arg\min_W \; \lVert Y - W A \rVert^2 + \lambda \lVert W - W_0 \rVert^2,

in forward order, so that each layer also corrects what the layers before it got wrong (He, Zhang
and Sun 2017, section 3.3). It is the posterior mean of a linear regression with a normal prior
around the weights that there were. No label and no gradient is needed.

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from bnnkit.graph.attach import FixedGates, attach
from bnnkit.graph.capture import preserved_modes
from bnnkit.graph.structure import UNGATED, Structure
from bnnkit.layers.patches import column_units, is_regression, outputs, patches, positions
from bnnkit.methods.branches import Branch, find_branches, observe

__all__ = ["Refit", "reconstruct"]

_RIDGE = 1e-3
"""λ as a share of the mean square of a column of A."""
_POSITIONS = 24
"""Output positions that are looked at in each input: neighbours say much the same."""
_WIDEST = 8192
"""Columns of the largest system that is solved; its matrix takes half a gigabyte."""


@dataclass(frozen=True)
class Refit:
    """What came of one layer.

    Args:
        layer: Its name.
        before: Share of the variance of its outputs that was lost with its inputs.
        after: Share that is lost now, on the same rows.
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
    """Refit the layers that read closed units, in place and in forward order.

    Args:
        model: The model at full width, on its device; its closed units are still to be removed.
        structure: Its channel classes.
        keep: `[units]` bool.
        gate: `[units]` multipliers of the units that are kept.
        batches: Inputs, each `[n, ...]`, on the device.
        generator: Chooses positions, on the CPU.

    Yields:
        What came of each layer, once it is done.
    """
    before = copy.deepcopy(model)
    closed = ~keep.cpu()
    hit = [
        name
        for name, units in structure.reads.items()
        if bool((closed[units.clamp(min=0)] & (units != UNGATED)).any())
        and is_regression(layer := model.get_submodule(name))
        and cast(Tensor, layer.weight)[0].numel() <= _WIDEST
    ]
    device = batches[0].device
    full, left = (gates.to(device) for gates in (gate, gate * keep.to(gate)))
    with (
        preserved_modes(model),
        attach(before, structure, FixedGates(full)),
        attach(model, structure, FixedGates(left)),
    ):
        before.eval(), model.eval()
        for branch in find_branches(before, hit, batches[0][:2]):
            units = column_units(model.get_submodule(branch.layer), structure.reads[branch.layer])
            open_ = (units == UNGATED) | keep.cpu()[units.clamp(min=0)]
            rows = _rows(before, model, branch, batches, generator)
            yield _refit(model, branch, open_.nonzero().reshape(-1).to(device), rows)


def _rows(
    before: nn.Module,
    model: nn.Module,
    branch: Branch,
    batches: Iterable[Tensor],
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows: inputs `[n, columns]`, and what should come out `[n, out]`."""
    layer = model.get_submodule(branch.layer)
    for x in batches:
        wanted, got = observe(before, branch, x), observe(model, branch, x)
        target = wanted.y
        if wanted.other is not None and got.other is not None:
            target = target + (wanted.other - got.other)
        count = positions(target, layer)
        at = torch.randperm(count, generator=generator)[:_POSITIONS].to(x.device)
        yield (
            patches(got.x.float(), layer, at).flatten(0, 1),
            outputs(target.float(), layer)[:, at].flatten(0, 1),
        )


@torch.no_grad()
def _refit(
    model: nn.Module, branch: Branch, columns: Tensor, rows: Iterable[tuple[Tensor, Tensor]]
) -> Refit:
    """Solve the least squares of one layer and write its weights."""
    layer = cast(nn.Linear, model.get_submodule(branch.layer))
    norm = None if branch.norm is None else cast(nn.BatchNorm2d, model.get_submodule(branch.norm))
    moments = _Moments.of(rows, columns)
    start = _affine_map(layer, norm, columns)
    fitted = moments.ridge(start, intercept=norm is not None or layer.bias is not None)
    _write(layer, norm, columns, fitted, moments)
    return Refit(branch.layer, moments.lost(start), moments.lost(fitted))


@dataclass(frozen=True)
class _Moments:
    """Second moments of a regression, in float64; the last column of A is one.

    Args:
        gram: `[columns + 1, columns + 1]` the mean of a aᵀ.
        cross: `[out, columns + 1]` the mean of y aᵀ.
        power: `[out]` the mean of y².
    """

    gram: Tensor
    cross: Tensor
    power: Tensor

    @classmethod
    def of(cls, rows: Iterable[tuple[Tensor, Tensor]], columns: Tensor) -> _Moments:
        """Return the moments of some rows `[n, all columns]` and `[n, out]`."""
        sums, n = None, 0
        for a, y in rows:
            a = torch.cat([a[:, columns], torch.ones_like(a[:, :1])], 1)
            parts = [p.double() for p in (a.T @ a, y.T @ a, y.square().sum(0))]
            sums = parts if sums is None else [s + p for s, p in zip(sums, parts, strict=True)]
            n += len(a)
        assert sums is not None  # there are batches
        return cls(*(s / n for s in sums))

    def ridge(self, start: Tensor, *, intercept: bool) -> Tensor:
        """Return the affine map `[out, columns + 1]` that fits best, drawn to where it starts."""
        size = len(self.gram) - (not intercept)
        gram = self.gram[:size, :size].clone()
        weights = gram.diagonal()[: len(self.gram) - 1]
        weights += (_RIDGE * weights.mean()).clamp(min=1e-12)
        wrong = (self.cross - start @ self.gram)[:, :size]
        fitted = start.clone()
        fitted[:, :size] += torch.linalg.solve(gram, wrong.T).T
        return fitted

    def lost(self, fitted: Tensor) -> float:
        """Return the share of the variance of y that a map leaves."""
        left = self.power - 2 * (fitted * self.cross).sum(1) + (fitted @ self.gram * fitted).sum(1)
        variance = self.power - self.cross[:, -1].square()
        return float(left.sum() / variance.sum().clamp(min=1e-30))

    def outputs(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of W a, each `[out]`, for a weight `[out, columns]`."""
        mean = self.gram[-1, :-1]
        covariance = self.gram[:-1, :-1] - torch.outer(mean, mean)
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
