"""What a decision costs, as a function of the units that stay: no slim model is built.

A layer's multiply-accumulates are positions × kernel × (channels out) × (channels in per group), a
tensor's parameters are the product of its axes. Both are sums of products of at most two widths,

    cost(k) = c + Σ_t s_t a_t(k) b_t(k),   a_t(k) = a_t⁰ + Σ_u A_tu k_u,   b_t alike,

where k_u ∈ {0, 1} says whether unit u stays and A_tu how many positions of the axis it stands for.
Closing unit u then saves Σ_t s_t (A_tu b_t + a_t B_tu − A_tu B_tu), which is linear algebra.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from bnnkit.errors import StructureError
from bnnkit.graph.count import macs_by_module
from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["Cost", "ProductCost", "Widths", "bytes_cost", "macs_cost", "parameters_cost"]

Axis = tuple[str, int]


class Cost(Protocol):
    """What a net costs whose closed units are removed.

    Args:
        unit: What it is counted in: `MACs`, `parameters`, `bytes` or `ms`.
    """

    unit: str

    def total(self, keep: Tensor) -> float:
        """Return the cost of the whole net, for `keep` `[units]` bool."""

    def marginal(self, keep: Tensor) -> Tensor:
        """Return `[units]` what is saved if one more unit goes; 0 for those already closed."""

    def paths(self, keep: Tensor, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return what is saved along several ways to close units, each on its own.

        Args:
            keep: `[units]` bool.
            orders: Each `[n]` kept units in the order in which they go.

        Returns:
            For each order `[n]` what is saved when its first 1, 2 … n units have gone.
        """


class Widths:
    """How wide axes are left by a decision: w(k) = w⁰ + W k.

    Args:
        slots: For each axis `[size]` the unit of every position, or UNGATED.
        n_units: Number of units.
    """

    def __init__(self, slots: Sequence[Tensor], n_units: int) -> None:
        self.fixed = torch.tensor([int((s == UNGATED).sum()) for s in slots]).double()
        gated = [s[s != UNGATED] for s in slots]
        self.per_unit = torch.zeros(n_units, len(slots), dtype=torch.float64)
        for axis, units in enumerate(gated):
            self.per_unit[:, axis] = torch.bincount(units, minlength=n_units)
        # The same as lists of positions: most units lie on few axes.
        self._unit = torch.cat([*gated, torch.zeros(0, dtype=torch.long)])
        self._axis = torch.arange(len(slots)).repeat_interleave(
            torch.tensor([len(units) for units in gated], dtype=torch.long)
        )

    def left(self, keep: Tensor) -> Tensor:
        """Return the widths `[axes]` that `keep` `[units]` leaves."""
        return self.fixed.index_add(0, self._axis, keep.to(self.fixed)[self._unit])

    def along(self, left: Tensor, order: Tensor) -> Tensor:
        """Return the widths `[n, axes]` after each of the kept units `order` `[n]` has gone."""
        return left - self.per_unit[order].cumsum(0)


class ProductCost:
    """A cost that is a sum of products of two widths.

    Args:
        unit: What it is counted in.
        widths: The axes.
        pairs: `[terms, 2]` the two axes of each product.
        scale: `[terms]` what one position of each of both costs.
        constant: What no decision changes.
    """

    def __init__(
        self, unit: str, widths: Widths, pairs: Tensor, scale: Tensor, constant: float
    ) -> None:
        self.unit = unit
        self._widths, self._pairs, self._scale = widths, pairs, scale
        self._constant = constant
        both = widths.per_unit[:, pairs[:, 0]] * widths.per_unit[:, pairs[:, 1]]
        self._both = both @ scale

    def total(self, keep: Tensor) -> float:
        """Return the cost of the whole net, for `keep` `[units]` bool."""
        return self._constant + float(self._products(self._widths.left(keep)).sum())

    def marginal(self, keep: Tensor) -> Tensor:
        """Return `[units]` what is saved if one more unit goes; 0 for those already closed."""
        left = self._widths.left(keep)
        slope = torch.zeros_like(left)
        for side in (0, 1):
            slope.index_add_(0, self._pairs[:, side], self._scale * left[self._pairs[:, 1 - side]])
        return (self._widths.per_unit @ slope - self._both) * keep.to(slope)

    def paths(self, keep: Tensor, orders: Sequence[Tensor]) -> list[Tensor]:
        """Return for each order `[n]` what is saved when its first 1, 2 … n units have gone."""
        left = self._widths.left(keep)
        return [self._path(left, order) for order in orders]

    def _path(self, left: Tensor, order: Tensor) -> Tensor:
        changed = self._widths.per_unit[order].any(0)[self._pairs].any(1)
        (first, second), scale = self._pairs[changed].unbind(1), self._scale[changed]
        after = self._widths.along(left, order)
        return (left[first] * left[second] - after[:, first] * after[:, second]) @ scale

    def _products(self, left: Tensor) -> Tensor:
        return self._scale * left[self._pairs[:, 0]] * left[self._pairs[:, 1]]


def macs_cost(model: nn.Module, structure: Structure) -> ProductCost:
    """Return the multiply-accumulates for one input: what `count_macs` counts in the slim model.

    Layers that run more than once count as often. Products between activations (attention) and
    layers without a removable axis are constants: the structure locks whatever they touch.

    Args:
        model: The analysed model at full width.
        structure: Its channel classes.
    """
    slots = _slots_by_name(model, structure)
    macs = macs_by_module(model, structure.input_shape)
    terms, constant = [], float(macs[""])
    for name, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        axes = slots.get(f"{name}.weight".lstrip("."))
        if not isinstance(weight, Tensor) or weight.dim() < 2 or not axes:
            continue
        inside = [f"{name}.{child}".lstrip(".") for child, _ in module.named_children()]
        own = macs.get(name, 0) - sum(macs.get(child, 0) for child in inside)
        constant -= own
        terms.append((own / weight.numel(), tuple(weight.shape), axes))
    return _product_cost("MACs", structure, terms, constant)


def parameters_cost(model: nn.Module, structure: Structure) -> ProductCost:
    """Return the number of parameters: what `count_parameters` counts in the slim model.

    Args:
        model: The analysed model at full width.
        structure: Its channel classes.
    """
    slots = _slots_by_name(model, structure)
    terms = [
        (1.0, tuple(p.shape), slots.get(name, {})) for name, p in model.named_parameters()
    ]  # shared ones once
    return _product_cost("parameters", structure, terms, 0.0)


def bytes_cost(model: nn.Module, structure: Structure) -> ProductCost:
    """Return the size of the safetensors file: parameters, buffers, and its table of contents.

    The table counts at full width; its numbers lose a few digits in a slim model. The plan that a
    run directory stores with the tensors is not among them: it depends on more than on widths.

    Args:
        model: The analysed model at full width.
        structure: Its channel classes.
    """
    slots = _slots_by_name(model, structure)
    tensors = {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}
    terms = [
        (float(t.element_size()), tuple(t.shape), slots.get(n, {})) for n, t in tensors.items()
    ]
    return _product_cost("bytes", structure, terms, float(_header_bytes(tensors)))


Term = tuple[float, tuple[int, ...], Mapping[int, Axis]]


def _product_cost(
    unit: str, structure: Structure, terms: Iterable[Term], constant: float
) -> ProductCost:
    """Add up `(cost of one element, shape, sliced axes)` of every tensor.

    Raises:
        StructureError: A tensor would be sliced along more than two axes.
    """
    # Axis 0 is none: a single position that belongs to no unit.
    rows: dict[tuple[int, ...], int] = {(UNGATED,): 0}
    scales: dict[tuple[int, int], float] = defaultdict(float)
    for each, shape, axes in terms:
        if len(axes) > 2:
            raise StructureError(
                "Counting the cost of units", f"the tensor of {next(iter(axes.values()))[0]!r}",
                "it loses channels along more than two axes", "Leave it out with --exclude.",
            )  # fmt: skip
        whole = each * math.prod(size for axis, size in enumerate(shape) if axis not in axes)
        if not axes:
            constant += whole
            continue
        pair = [0, 0]
        for side, key in enumerate(axes.values()):
            pair[side] = rows.setdefault(tuple(structure.slots[key].tolist()), len(rows))
        scales[pair[0], pair[1]] += whole
    widths = Widths([torch.tensor(row) for row in rows], structure.n_units)
    pairs = torch.tensor(list(scales), dtype=torch.long).reshape(-1, 2)
    scale = torch.tensor(list(scales.values()), dtype=torch.float64)
    return ProductCost(unit, widths, pairs, scale, constant)


def _slots_by_name(model: nn.Module, structure: Structure) -> dict[str, dict[int, Axis]]:
    """Return `{tensor name: {axis: key in slots}}`, under every name that a tensor has."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        names[id(tensor)].append(name)
    also = {name: same for same in names.values() for name in same}
    out: dict[str, dict[int, Axis]] = defaultdict(dict)
    for name, axis in sorted(structure.slots):
        for other in also[name]:
            out[other].setdefault(axis, (name, axis))
    return dict(out)


def _header_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the length of a safetensors header: its length, and JSON filled up to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    # As they are stored: the widest type first, then by name.
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        tensor = tensors[name]
        end = at + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    return 8 + -(-len(json.dumps(entries, separators=(",", ":"))) // 8) * 8
