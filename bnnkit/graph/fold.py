"""Fold frozen gates into the weights that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnnkit.graph.structure import UNGATED, Structure

__all__ = ["fold"]


def fold(model: nn.Module, structure: Structure, theta: Tensor) -> None:
    """Multiply every reader's input weights by the gates, in place.

    Args:
        model: The analysed model, or a copy of it, still at full width.
        structure: Its channel classes.
        theta: `[units]` frozen gates; 0 where a unit is closed.
    """
    with torch.no_grad():
        for name, units in structure.reads.items():
            layer = model.get_submodule(name)
            weight = layer.weight
            assert isinstance(weight, Tensor)  # readers are convolutions and linear layers
            gate = theta.to(weight)[units.clamp(min=0).to(weight.device)]
            gate = torch.where((units == UNGATED).to(weight.device), torch.ones_like(gate), gate)
            groups = getattr(layer, "groups", 1)
            # [groups, out per group, in per group, kernel...] * [groups, 1, in per group, 1...]
            grouped = weight.view(groups, -1, *weight.shape[1:])
            grouped.mul_(gate.view(groups, 1, -1, *[1] * (weight.dim() - 2)))
