"""Count parameters and multiply-accumulates, by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bnnkit.graph.capture import preserved_modes

__all__ = ["LayerCost", "costs", "count_macs", "count_parameters", "macs_by_module"]


@dataclass(frozen=True)
class LayerCost:
    """The size of one layer.

    Args:
        name: Path of the layer.
        kind: Its class.
        channels: `(out, in)`.
        parameters: Trainable numbers.
        macs: Multiply-accumulates for one input.
    """

    name: str
    kind: str
    channels: tuple[int, int]
    parameters: int
    macs: int


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulates of convolutions and matrix products for one input.

    Half of the floating-point operations that `torch.utils.flop_counter` counts.
    """
    return macs_by_module(model, input_shape)[""]


def costs(model: nn.Module, input_shape: tuple[int, ...]) -> list[LayerCost]:
    """Return the cost of every convolution and linear layer, in the order of definition."""
    macs = macs_by_module(model, input_shape)
    out = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            channels = (layer.out_channels, layer.in_channels)
        elif isinstance(layer, nn.Linear):
            channels = (layer.out_features, layer.in_features)
        else:
            continue
        parameters = count_parameters(layer)
        out.append(LayerCost(name, type(layer).__name__, channels, parameters, macs.get(name, 0)))
    return out


@contextmanager
def _slow_attention() -> Iterator[None]:
    """Run transformer layers operation by operation: what the fused kernel does is not counted."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def macs_by_module(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return `{path: multiply-accumulates for one input}` of all that runs; "" is the whole."""
    parameter = next(model.parameters(), None)
    x = torch.zeros((1, *input_shape))
    if parameter is not None:
        x = x.to(parameter)
    with preserved_modes(model), torch.no_grad(), _slow_attention():
        model.eval()
        with FlopCounterMode(display=False) as counter:
            model(x)
    root = type(model).__name__
    out = {"": counter.get_total_flops() // 2}
    for name, ops in counter.get_flop_counts().items():
        path = name.removeprefix(root).removeprefix(".")
        if path and name != "Global":
            out[path] = sum(ops.values()) // 2
    return out
