"""What flows through a captured graph while it runs on labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bnnkit.graph.labels import NEUTRAL, Labels, collapse

__all__ = ["Ids", "Param", "Read", "Trace"]


@dataclass(frozen=True)
class Ids:
    """The labels of one tensor value, in the value's shape (uniform axes are not stored)."""

    ids: Tensor


@dataclass(frozen=True)
class Param:
    """A parameter or buffer, by name."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Read:
    """A layer that mixes channels, and the labels that it reads.

    Args:
        module: Path of the layer.
        ids: `[channels in]` labels of its input channels.
    """

    module: str
    ids: Tensor


@dataclass
class Trace:
    """Everything that the graphs of one model tell about its channels.

    Args:
        labels: The union-find over labels.
        slots: `{(tensor name, axis): [size] labels}`: what has to be sliced together.
        reads: `{layer: Read}`.
        order: Names of the writing layers in forward order.
        fixed_labels: `{reason: label}` of values whose channels cannot be removed.
    """

    labels: Labels = field(default_factory=Labels)
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    reads: dict[str, Read] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    fixed_labels: dict[str, Tensor] = field(default_factory=dict)

    def slot(self, name: str, axis: int, ids: Tensor) -> Tensor:
        """Tie an axis of a stored tensor to labels; return the labels of that axis, `[size]`."""
        known = self.slots.setdefault((name, axis), ids)
        if known is not ids:
            self.labels.unite(known, ids)
        return known

    def fixed(self, reason: str, shape: tuple[int, ...]) -> Ids:
        """Return a value whose channels cannot be removed, `shape`; one label per reason."""
        if reason not in self.fixed_labels:
            label = self.labels.fresh(1)
            self.labels.lock(label, reason)
            self.fixed_labels[reason] = label
        return Ids(self.fixed_labels[reason][0].expand(shape))

    def freeze(self, param: Param, reason: str) -> Ids:
        """Forbid slicing a stored tensor along any axis; return it as a fixed value."""
        value = self.fixed(reason, param.shape)
        for axis, size in enumerate(param.shape):
            self.slot(param.name, axis, self.fixed_labels[reason].expand(size))
        return value

    def read(self, module: str, ids: Tensor) -> None:
        """Record that a layer mixes these channels; every call of a layer reads the same ones."""
        if module in self.reads:
            self.labels.unite(self.reads[module].ids, ids)
        else:
            self.reads[module] = Read(module, ids)

    def channel_ids(self, value: Ids, axis: int, reader: str) -> Tensor:
        """Return the labels along one axis, `[size]`; lock what varies along any other."""
        axis = axis % value.ids.dim()
        flat = collapse(value.ids)
        if any(size > 1 for a, size in enumerate(flat.shape) if a != axis):
            reason = f"{reader} reads channels that are laid out along two axes"
            self.labels.lock(flat, reason)
            return self.fixed(reason, (value.ids.shape[axis],)).ids
        return flat.reshape(-1).expand(value.ids.shape[axis]).contiguous()

    def materialise(self, param: Param) -> Ids:
        """Give a parameter used in element-wise arithmetic labels along its one long axis."""
        axes = [a for a, size in enumerate(param.shape) if size > 1]
        if not axes:
            return Ids(torch.full(param.shape or (1,), NEUTRAL).reshape(param.shape))
        if len(axes) > 1:
            shape = "x".join(map(str, param.shape))
            return self.freeze(param, f"combined with {param.name} of shape {shape}")
        if (param.name, axes[0]) not in self.slots:
            self.slot(param.name, axes[0], self.labels.fresh(param.shape[axes[0]]))
        laid_out = self.stored(param)
        assert laid_out is not None  # it has one long axis, and labels along it
        return laid_out

    def stored(self, param: Param) -> Ids | None:
        """Return the labels of a parameter with one long axis, where it has any."""
        axes = [a for a, size in enumerate(param.shape) if size > 1]
        if len(axes) != 1 or (param.name, axes[0]) not in self.slots:
            return None
        view = [-1 if a == axes[0] else 1 for a in range(len(param.shape))]
        return Ids(self.slots[param.name, axes[0]].reshape(view).expand(param.shape))
