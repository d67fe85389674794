"""Channel labels: integers that stand for channels, united when channels must live together.

Every channel that some layer writes gets a label. The captured graph is then run on tensors of
labels in place of values: data movement moves them, element-wise operations unite them, and what
is not understood locks them. Label 0 is neutral: a constant that belongs to no channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["NEUTRAL", "Labels", "collapse", "varying_axes"]

NEUTRAL = 0


class Labels:
    """A union-find forest over labels, with the reasons why some are locked."""

    def __init__(self) -> None:
        self._parent: list[int] = [NEUTRAL]
        self._locked: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        """Return `count` new labels, `[count]`."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def find(self, label: int) -> int:
        """Return the representative of a label."""
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Tie the labels of `a` to those of `b`, element by element; neutral ones tie nothing."""
        pairs = torch.stack([a.reshape(-1), b.reshape(-1)], dim=1)
        for left, right in torch.unique(pairs, dim=0).tolist():
            if NEUTRAL in (left, right):
                continue
            x, y = self.find(left), self.find(right)
            if x == y:
                continue
            # The older label stays the representative, so that names follow the forward order.
            keep, drop = min(x, y), max(x, y)
            self._parent[drop] = keep
            if drop in self._locked:
                self._locked.setdefault(keep, self._locked[drop])
                del self._locked[drop]

    def lock(self, labels: Tensor, reason: str) -> None:
        """Forbid the removal of these labels; the first reason is kept."""
        for label in torch.unique(labels).tolist():
            if label != NEUTRAL:
                self._locked.setdefault(self.find(label), reason)

    def reason(self, label: int) -> str | None:
        """Return why a label is locked, or None."""
        return self._locked.get(self.find(label))

    def roots(self, labels: Tensor) -> Tensor:
        """Return the representative of each label, in the same shape."""
        unique, inverse = torch.unique(labels, return_inverse=True)
        found = torch.tensor([self.find(int(label)) for label in unique], dtype=torch.long)
        return found[inverse]


def collapse(ids: Tensor) -> Tensor:
    """Shrink every axis along which the labels do not vary to size 1, `[same rank]`.

    Axes of stride 0 are known to be uniform; the others are compared once.
    """
    for axis in range(ids.dim()):
        if ids.shape[axis] > 1:
            head = ids.narrow(axis, 0, 1)
            if ids.stride(axis) == 0 or bool((ids == head).all()):
                ids = head
    return ids


def varying_axes(ids: Tensor) -> list[int]:
    """Return the axes along which the labels vary."""
    return [axis for axis, size in enumerate(collapse(ids).shape) if size > 1]
